"""Trials that train together: which of a source's trials one worker gets at a time."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from laresa.methods import AT_ONCE, group_key
from sweeps.service.study import Group, PlannedTrial, Search

if TYPE_CHECKING:
    from sweeps.service.search.sources import Source

FEWEST = 8  # of a group that is split for another worker's sake: fewer gain little by training together
ROUNDS = 3  # of a search, whose sampler hears of one before it suggests the next
STOPS = ("none", "asha")  # schedulers that a group does itself


def in_groups(source: Source, places: int, searches: Collection[Search] = ()) -> Source:
    """The source itself where each of its trials trains alone, else its trials in groups for `places` workers.

    A search is asked in rounds of a third of its trials, those of all searches together.
    """
    if not searches:
        return Grouped(source, places)
    together = {search.name for search in searches if why_alone(search) is None}
    if not together:
        return source
    round_of = sum(math.ceil(search.trials / ROUNDS) for search in searches)
    halving = {search.name for search in searches if search.scheduler == "asha"}
    return Grouped(source, places, arms=together, of_round=round_of, halving=halving)


def why_alone(search: Search) -> str | None:
    """Why the trials of a search do not train together; None if they do."""
    if group_key(search.base) is None:
        return f"method {search.base.method} trains one at a time"
    if search.scheduler not in STOPS:
        return f"--scheduler {search.scheduler} stops trials one by one; {' and '.join(STOPS)} work in groups"
    return None


def described(trials: Sequence[PlannedTrial], searches: Collection[Search]) -> list[str]:
    """Which trials will train together and why others don't, a line each; none where no method of theirs can."""
    by_key: dict[str | None, int] = {}
    for trial in trials:
        key = group_key(trial.config)
        by_key[key] = by_key.get(key, 0) + 1
    reasons = {search.name: why for search in searches if (why := why_alone(search)) is not None}
    alone = by_key.pop(None, 0)
    if not by_key and len(reasons) == len(searches):
        return []
    found = []
    if by_key:
        groups = f"{len(by_key)} group{'s' * (len(by_key) > 1)}"
        found.append(f"together: {sum(by_key.values())} trials in {groups}, split where more workers are free")
    if alone:
        found.append(f"alone: {alone} trials, whose method trains one at a time")
    if len(reasons) < len(searches):
        found.append(f"together: the trials of each search ({len(searches) - len(reasons)}), in {ROUNDS} rounds")
    return [*found, *(f"alone: the trials of search {name}: {why}" for name, why in reasons.items())]


class Grouped:
    """Source: the trials of another, those together whose method can (laresa.methods.group_key).

    arms: of which trials train together; None: of all. of_round: trials that are gathered before they are split into
    groups; the next are asked once all of these are told. halving: arms whose lesser trials a group stops early.
    """

    def __init__(
        self,
        source: Source,
        places: int,
        *,
        arms: Collection[str] | None = None,
        of_round: int | None = None,
        halving: Collection[str] = (),
    ) -> None:
        self._source, self._places, self._arms, self._halving = source, places, arms, halving
        self._of_round = of_round
        self._ready: deque[Group] = deque()
        self._training: set[str] = set()  # signatures, of the round

    @property
    def known(self) -> bool:
        return self._source.known

    @property
    def finished(self) -> bool:
        return not self._ready and self._source.finished

    def next(self) -> Group | None:
        if not self._ready and not self._training:
            self._ready.extend(self._gathered())
        return self._ready.popleft() if self._ready else None

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        self._training.discard(trial.signature)
        self._source.concluded(trial, outcome)

    def _gathered(self) -> list[Group]:
        """A round: groups, then what trains alone."""
        by_key: dict[str, list[PlannedTrial]] = {}
        alone, count = list[Group](), 0
        while (self._of_round is None or count < self._of_round) and (given := self._source.next()) is not None:
            for trial in given.trials:
                count += 1
                key = group_key(trial.config) if self._arms is None or trial.arm in self._arms else None
                if key is None:
                    alone.append(Group((trial,)))
                else:
                    by_key.setdefault(key, []).append(trial)
        if self._of_round is not None:
            self._training = {trial.signature for trials in by_key.values() for trial in trials}
            self._training |= {group.trials[0].signature for group in alone}
        groups = split(by_key.values(), self._places)
        return [Group(trials, all(trial.arm in self._halving for trial in trials)) for trials in groups] + alone


def split(by_key: Iterable[Sequence[PlannedTrial]], places: int) -> Iterator[tuple[PlannedTrial, ...]]:
    """Groups of trials of one key each, enough of them for `places` workers.

    Arms are kept whole where that can be: heads of equal terms are one product.
    """
    keys = list(by_key)
    for trials in keys:
        ordered = sorted(trials, key=lambda trial: trial.arm)
        wanted = min(math.ceil(places / len(keys)), max(1, len(trials) // FEWEST))
        parts = max(wanted, math.ceil(len(trials) / AT_ONCE))
        cuts = [round(part * len(trials) / parts) for part in range(parts + 1)]
        yield from (tuple(ordered[start:end]) for start, end in itertools.pairwise(cuts))

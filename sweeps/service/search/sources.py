"""Where trials come from: a plan fixed in advance, or (optuna_source) an Optuna study that is asked and told."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from sweeps.service.study import Group, PlannedTrial


class Source(Protocol):
    """Gives trials to train and hears how they ended."""

    @property
    def known(self) -> bool:
        """What comes does not depend on how trials end: it may be asked for far ahead."""

    @property
    def finished(self) -> bool:
        """Nothing will come any more."""

    def next(self) -> Group | None:
        """What one worker is to train now; None if there is nothing (or nothing yet: see `finished`)."""

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        """One trial of a group ended as its outcome.json says."""


class FixedPlan:
    """Every trial is known in advance; each is a group of its own."""

    known = True

    def __init__(self, trials: Iterable[PlannedTrial]) -> None:
        self._left = deque(trials)

    @property
    def finished(self) -> bool:
        return not self._left

    def next(self) -> Group | None:
        return Group((self._left.popleft(),)) if self._left else None

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        return None


class Capped:
    """Source: another's trials, until the sweep has so many. most: None is no end. done: that it has already."""

    def __init__(self, source: Source, most: int | None, done: int) -> None:
        self._source, self._left = source, math.inf if most is None else most - done
        self.known = source.known

    @property
    def finished(self) -> bool:
        return self._left <= 0 or self._source.finished

    @property
    def withheld(self) -> bool:
        """Whether there would have been more. Asked when all that was given has ended."""
        return self._left <= 0 and not self._source.finished

    def next(self) -> Group | None:
        if self._left <= 0:
            return None
        group = self._source.next()
        self._left -= 0 if group is None else len(group.trials)
        return group

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        self._source.concluded(trial, outcome)


class Requeued(FixedPlan):
    """Trials of another source once more, which hears how they end."""

    def __init__(self, trials: Iterable[PlannedTrial], source: Source) -> None:
        super().__init__(trials)
        self._source = source

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        self._source.concluded(trial, outcome)

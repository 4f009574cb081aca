"""What would run: every trial with its signature, what is finished already, how long the rest will take."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from laresa.config import TrialConfig
from laresa.errors import ConfigError, StorageError
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial, Study

MOVE = "move it away and run the same command again"


@dataclass(frozen=True)
class PlanRow:
    """A trial and what is left of it.

    state: "finished", "failed", "pruned": nothing to do; "deliver": trained, but the tracker lacks it; "cached":
    another sweep finished it; "other code": this sweep has it by other code; "resume"; "new".
    """

    trial: PlannedTrial
    state: str

    @property
    def done(self) -> bool:
        return self.state not in ("other code", "resume", "new")

    def to_dict(self) -> dict[str, Any]:
        config = self.trial.config
        identity = {"signature": self.trial.signature, "code": self.trial.code}
        fields = {**identity, "arm": self.trial.arm, "seed": config.seed, "fold": config.fold}
        said = {"role": self.trial.role, "chosen": self.trial.chosen, "state": self.state}
        return {**fields, **said, "config": config.to_dict()}


def plan(
    study: Study,
    folder: SweepFolder,
    tracked: Mapping[str, str],
    cached: Callable[[Sequence[PlannedTrial]], Container[str]] = lambda left: (),
) -> tuple[PlanRow, ...]:
    """One row a trial, in the order they would run.

    tracked: key -> state, of the runs the tracker holds for this sweep.
    cached: given the trials that are left, the signatures of those that another sweep finished.
    """
    rows = rows_of(study.trials(), folder, tracked)
    found = cached([row.trial for row in rows if not row.done])
    return tuple(PlanRow(row.trial, "cached") if row.trial.signature in found else row for row in rows)


def rows_of(trials: Iterable[PlannedTrial], folder: SweepFolder, tracked: Mapping[str, str]) -> tuple[PlanRow, ...]:
    """As `plan`, of these trials."""
    stored = folder.snapshot()
    return tuple(PlanRow(trial, _state(trial, stored, tracked)) for trial in trials)


def stored(folder: SweepFolder, name: str, parts: Iterable[str] = ()) -> dict[str, Any]:
    """A file that the sweep's storage keeps; empty where there is none. parts: mappings in it, of mappings.

    StorageError: it is damaged.
    """
    try:
        found = folder.read(name)
    except (ValueError, RecursionError) as error:  # no UTF-8, a number of too many digits, nested too deep
        raise StorageError(f"{folder.root / name} is damaged ({error}): {MOVE}") from error
    whole = found is None or (isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in parts))
    if not whole or not all(isinstance(one, dict) for part in parts for one in (found or {}).get(part, {}).values()):
        raise StorageError(f"{folder.root / name} is damaged (it holds something else): {MOVE}")
    return found or {}


def check_plan(study: Study, folder: SweepFolder) -> None:
    """ConfigError where the sweep exists with another plan: it can be continued and extended, never mixed."""
    earlier = stored(folder, "plan.json", ("arms", "searches"))
    if not earlier:
        return
    now = _fixed(study)
    for tuned, given, words in (
        (now, earlier, "as given, this command tunes it"),
        (earlier, now, "tuned, this command does not"),
    ):
        for name in sorted(set(tuned["searches"]) & set(given["arms"])):
            raise ConfigError(f"sweep {study.name!r} holds {name!r} {words}: give the same --tune, or another --sweep")
    for kind in ("arms", "searches"):
        for name in sorted(set(now[kind]) & set(earlier[kind])):
            _same(study.name, name, earlier[kind][name], now[kind][name])
    known = {*earlier["arms"], *earlier["searches"]}
    trained = [{c.arm for c in study.cells if c.block == block and c.name in known} for block in study.blocks]
    for arm, against in study.contrasts:
        if any({arm, against} <= arms for arms in trained) and [arm, against] not in earlier.get("contrasts", []):
            raise ConfigError(
                f"sweep {study.name!r} has trained {arm!r} and {against!r} without naming them a primary contrast: "
                "what "
                "is named afterwards is exploratory; give the --primary it began with (or --primary none), or another "
                "--sweep"
            )


@dataclass(frozen=True)
class Evidence:
    """What a sweep fixed in advance, its earlier extensions included. replicates: (seed, fold) as they were planned."""

    contrasts: tuple[tuple[str, str], ...]
    replicates: tuple[tuple[int, int], ...]
    sequential: bool
    margin: float

    def tags(self) -> dict[str, str]:
        """Of the parent run."""
        return {
            "laresa.contrasts": json.dumps(self.contrasts),
            "laresa.replicates": json.dumps(self.replicates),
            "laresa.design": json.dumps("sequential" if self.sequential else "fixed"),
            "laresa.margin": json.dumps(self.margin),
        }


def write_plan(study: Study, folder: SweepFolder) -> Evidence:
    """Note what this sweep holds, its earlier extensions included, and what it fixed in advance."""
    earlier = stored(folder, "plan.json", ("arms", "searches")) or {"arms": {}, "searches": {}}
    now = _fixed(study)
    arms = {kind: {**earlier[kind], **now[kind]} for kind in ("arms", "searches")}
    contrasts = [(arm, against) for arm, against in earlier.get("contrasts", [])]
    replicates = [(seed, fold) for seed, fold in earlier.get("replicates", [])]
    evidence = Evidence(
        tuple(dict.fromkeys([*contrasts, *study.contrasts])),
        tuple(dict.fromkeys([*replicates, *((r.seed, r.fold) for r in study.replicates)])),
        study.sequential or earlier.get("sequential", False),
        study.margin,
    )
    folder.write("plan.json", {**arms, **asdict(evidence)})
    return evidence


def _fixed(study: Study) -> dict[str, dict[str, Any]]:
    """What can't change within one sweep: each arm's configuration, each search's space and rules."""
    searched = {search.name for search in study.searches}
    arms = {cell.name: _shared(cell.config) for cell in study.cells if cell.name not in searched}
    searches = {}
    for search in study.searches:
        space = {name: repr(distribution) for name, distribution in search.space.items()}
        rules = {name: getattr(search, name) for name in ("sampler", "scheduler", "seed")}
        rules["objectives"] = list(search.objectives)
        judged = search.replicate
        replicate = {"replicate": [judged.seed, judged.fold, *(["exchanged"] if judged.exchanged else [])]}
        searches[search.name] = {**_shared(search.base), **rules, **replicate, "space": space}
    return {"arms": arms, "searches": searches}


def _shared(config: TrialConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in ("seed", "fold")}


def _same(sweep: str, name: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for field in sorted({*earlier, *now}):
        if earlier.get(field) != now.get(field):
            raise ConfigError(
                f"sweep {sweep!r} holds {name!r} with {field}={earlier.get(field)!r}, this command has "
                f"{now.get(field)!r}: give the same options to continue, more seeds, arms or trials to extend it, "
                "or another --sweep"
            )


def _state(trial: PlannedTrial, folder: SweepFolder, tracked: Mapping[str, str]) -> str:
    known = tracked.get(trial.key)
    if known in ("finished", "failed", "pruned"):
        return known
    stored = folder.trial(trial.key)
    if stored.outcome() is not None:
        return "deliver"
    return "resume" if stored.begun() else "new"

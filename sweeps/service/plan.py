"""What would run: every trial with its signature, what is finished already, how long the rest will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.service.storage import SweepFolder
from sweeps.service.study import PlannedTrial, Study


@dataclass(frozen=True)
class PlanRow:
    """A trial and what is left of it.

    state: "finished", "failed", "pruned": nothing to do; "deliver": trained, but the tracker lacks it; "resume"; "new".
    """

    trial: PlannedTrial
    state: str

    @property
    def done(self) -> bool:
        return self.state not in ("resume", "new")

    def to_dict(self) -> dict[str, Any]:
        config = self.trial.config
        fields = {"signature": self.trial.signature, "arm": self.trial.arm, "seed": config.seed, "fold": config.fold}
        return {**fields, "state": self.state, "config": config.to_dict()}


def plan(study: Study, folder: SweepFolder, tracked: Mapping[str, str]) -> tuple[PlanRow, ...]:
    """One row a trial, in the order they would run.

    tracked: signature -> state, of the runs the tracker holds for this sweep.
    """
    return tuple(PlanRow(trial, _state(trial, folder, tracked)) for trial in study.trials())


def _state(trial: PlannedTrial, folder: SweepFolder, tracked: Mapping[str, str]) -> str:
    known = tracked.get(trial.signature)
    if known in ("finished", "failed", "pruned"):
        return known
    stored = folder.trial(trial.signature)
    if stored.outcome() is not None:
        return "deliver"
    return "resume" if stored.checkpoints() else "new"

"""The trials of a group on a worker: what travels to it, each one's place on storage, and how each ended."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from sweeps.service.storage.files import Attempt, SweepFolder, TrialFolder
from sweeps.service.storage.open import sweep_at
from sweeps.service.study import PlannedTrial, RunOptions
from sweeps.service.tracking.write import SweepRun, TrialRun

OOM_SHARED_GPU = "oom_shared_gpu"  # the state of a trial that ran out of the memory of a GPU it shares
STOPPED = "stopped"  # the state of a trial that the user stopped: it waits for the sweep to be run again
UNFINISHED = (OOM_SHARED_GPU, STOPPED)  # states of trials that end here without an outcome, and go on elsewhere
STORAGE = "storage"  # the state of a trial that ends without an outcome, for its storage can't be used

Row = dict[str, Any]


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share: plain data that travels to the workers. folder: a `SweepFolder.place`.

    latents_every, keep_weights: as of RunOptions. files: name -> digest of the bytes, of the code that the trial is
    learned by, as the driver has it.
    """

    sweep: SweepRun
    folder: str
    cpus: float
    tags: Mapping[str, str]
    gpus: float = 0.0
    gpu_memory: float | None = None  # GiB that a trial was said to need
    latents_every: int | None = None
    keep_weights: str = "best"
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, sweep: SweepRun, folder: SweepFolder, options: RunOptions, tags: Mapping[str, str]) -> TrialContext:
        memory = options.gpu_memory_per_trial if options.gpus < 1 else None  # alone, it may have all there is
        shares = (options.cpus_per_trial, tags, options.gpus, memory)
        return cls(sweep, folder.place, *shares, options.latents_every, options.keep_weights)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrialContext:
        return cls(**{**fields, "sweep": SweepRun(**fields["sweep"])})

    def trial_folder(self, trial: PlannedTrial) -> TrialFolder:
        return sweep_at(self.folder).trial(trial.key)


class Member:
    """One trial of a group: its place on storage, its run, and the right to write its files."""

    def __init__(self, trial: PlannedTrial, context: TrialContext) -> None:
        self.trial, self.signature = trial, trial.signature
        self.folder = context.trial_folder(trial)
        self._attempt: Attempt | None = None
        tags = {**context.tags, "laresa.host": platform.node(), "laresa.threads": str(torch.get_num_threads())}
        self.run = TrialRun(context.sweep, trial, tags)
        self.told = 0  # epochs that the tracker was sent
        self.last: Row = {"epoch": 0, "val/top1": 0.0}
        self.row: Row | None = None  # how it ended

    @property
    def attempt(self) -> Attempt:
        """Taken when first needed: the right to write this trial's files."""
        if self._attempt is None:
            self._attempt = self.folder.new_attempt()
        return self._attempt

    def forget_attempt(self) -> None:
        self._attempt, self.told = None, 0


def row_of(member: Member, state: str, *, done: bool) -> Row:
    return {"signature": member.signature, "state": state, "done": done}

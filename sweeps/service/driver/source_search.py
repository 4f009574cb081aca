"""What Tune is given to train: groups of a source's trials, and again those that gave way to another sweep's."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from laresa.errors import LaresaError, StorageError
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.progress import ProgressDisplay
from sweeps.service.driver.shares import Shares
from sweeps.service.provenance import bytes_of
from sweeps.service.search.sources import Source
from sweeps.service.storage.outcome import conclude_pruned
from sweeps.service.study import Group, PlannedTrial
from sweeps.service.worker.members import OOM_SHARED_GPU, STOPPED, STORAGE, TrialContext


class SourceSearch(Searcher):
    """Hands Tune the source's groups, each as one trial of Tune's, and the source what became of each of their trials.

    Tune's config of a group: {"trials": [PlannedTrial.to_dict(), ...], "halving", "context": TrialContext.to_dict()}.
    """

    def __init__(
        self,
        source: Source,
        context: TrialContext,
        display: ProgressDisplay,
        interrupt: GracefulInterrupt,
        shares: Shares,
    ) -> None:
        super().__init__(metric="val/top1", mode="max")
        self._source, self._context, self._display, self._interrupt = source, context, display, interrupt
        self._shares = shares
        self._given: dict[str, Group] = {}
        self._giving_way: set[str] = set()
        self._asked_all = False
        self._again: deque[Group] = deque()  # what gave way to another sweep's
        self.oom_shared_gpu: list[PlannedTrial] = []
        self.stopped: deque[PlannedTrial] = deque()  # by the user, while the rest goes on
        self._told_stopped: set[str] = set()
        self.broken: LaresaError | None = None  # why no trial can go on: their storage, mostly

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's snapshots, which nobody restores

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        waiting = len(self._given) - len(self._display.groups)
        if self._given and waiting >= self._shares.room() and not self._interrupt.requested:
            return None
        group = None
        if not self._interrupt.requested:
            with self._ending():
                group = self._again.popleft() if self._again else self._source.next()
        if self._interrupt.requested:
            return Searcher.FINISHED
        if group is None:  # what is given may give way, and come again
            self._asked_all = self._source.finished
            return None if self._given else Searcher.FINISHED
        self._given[trial_id] = group
        files = {name: digest for trial in group.trials for name, digest in bytes_of(trial.config).items()}
        context = replace(self._context, files=files)
        trials = [trial.to_dict() for trial in group.trials]
        return {"trials": trials, "halving": group.halving, "context": context.to_dict()}

    def tell(self, places: Callable[[], int]) -> None:
        """Say to other sweeps what this one asks for. places: how many groups the cluster has room for."""
        if self._shares.due:
            self._shares.tell(len(self._given), self._more, places())

    @property
    def _more(self) -> bool:
        """Whether there may be something to give."""
        return bool(self._again) or not self._asked_all

    def too_many(self, waiting: Sequence[str]) -> list[str]:
        """Of the groups that wait for a place, those that stand in another sweep's way."""
        return self._shares.too_many(waiting)

    def needs_no_worker(self) -> bool:
        """Whether a worker that is idle now would stay so, or stand in another sweep's place."""
        return not self._more or not self._shares.room()

    def started(self, trial_id: str) -> None:
        """It has a worker."""
        self._shares.started(trial_id)

    def gives_way(self, trial_id: str) -> bool:
        """Whether it runs in another sweep's place; then it is given again once there is a place."""
        if self._shares.gives_way(trial_id):
            self._giving_way.add(trial_id)
        return trial_id in self._giving_way

    def heard(self, trial_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """What a group's result says; Tune drops the last where the disk is too full to note that the group ended."""
        trials = {trial.signature: trial for trial in self._given[trial_id].trials} if trial_id in self._given else {}
        with self._ending():
            for row in rows:
                if row["state"] == STORAGE:
                    raise StorageError(row["error"])
                if row["state"] == STOPPED and row["signature"] in trials.keys() - self._told_stopped:
                    self._told_stopped.add(row["signature"])
                    self.stopped.append(trials[row["signature"]])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        rows = () if error else (result or {}).get("trials", ())
        self.heard(trial_id, rows)
        group = self._given.pop(trial_id, None)
        if group is None:
            return
        self._shares.ended(trial_id)
        left = group.trials
        if (trial_id in self._giving_way or result is None) and not error and not self._interrupt.requested:
            ended = {row["signature"] for row in rows if row["done"]}
            again = tuple(trial for trial in group.trials if trial.signature not in ended)
            left = tuple(trial for trial in group.trials if trial.signature in ended)
            if again:
                self._again.append(replace(group, trials=again))
        last = {row["signature"]: row["state"] for row in rows}
        with self._ending():
            for trial in left if STORAGE not in last.values() else ():
                self._ended(trial, last.get(trial.signature))
        self._display.left(trial_id)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """What makes it useless to go on ends the sweep as Ctrl-C does, and is raised when Tune has let go."""
        try:
            yield
        except LaresaError as error:
            self.broken = self.broken or error
            self._interrupt.ask("")
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails in Tune after this, fails of it

    def _ended(self, trial: PlannedTrial, state: str | None) -> None:
        """state: as its group's last result told; None where the group broke down."""
        stored = self._context.trial_folder(trial)
        outcome = stored.outcome()
        if outcome is None and state == "running" and not self._interrupt.requested:  # stopped, but not by the user
            outcome = conclude_pruned(stored, trial)
            if outcome is not None:
                self._display.pruned(trial.signature, outcome)
        if outcome is None and state == OOM_SHARED_GPU:
            self.oom_shared_gpu.append(trial)
        if outcome is not None:
            self._source.concluded(trial, outcome)

    def save(self, checkpoint_path: str) -> None:
        return None

    def restore(self, checkpoint_path: str) -> None:
        return None

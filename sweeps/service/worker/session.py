"""A group of trials on a worker, from its checkpoint to their outcomes: the one place that catches a failure."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laresa.config import TrialConfig
from laresa.data import Dataset, data_key, load
from laresa.errors import StorageError
from laresa.files import atomic_write, cant_write, is_full
from laresa.measurement import Measurement
from laresa.methods import AT_ONCE, Method, Result, start
from sweeps.service.storage.files import MEASURED
from sweeps.service.storage.open import sweep_at
from sweeps.service.storage.outcome import describe_outcome, pruned_metrics
from sweeps.service.storage.shared_folder import FencedError
from sweeps.service.storage.state import write_json
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.async_writer import AsyncWriter
from sweeps.service.worker.energy import JOULES, meter_of
from sweeps.service.worker.gpu_memory import forget_peak, free_gib, out_of_memory, peak_gib, wait_for_room
from sweeps.service.worker.group_files import KEEP_SECONDS, GroupFiles
from sweeps.service.worker.halving import Halving
from sweeps.service.worker.leaves import write_described, write_latents, write_weights
from sweeps.service.worker.members import OOM_SHARED_GPU, STOPPED, UNFINISHED, Member, Row, TrialContext, row_of

log = logging.getLogger("laresa.trial")
RETRIES = 1  # of what failed by itself, from its last checkpoint: memory may be free the next time
AWAY_SECONDS, AWAY_STEP_SECONDS = 120.0, 5.0  # how long storage may be away, and how often it is asked
STEP_SECONDS = 1.0  # of a group, whose epochs may take milliseconds


class Session:
    """A group of trials on this worker. Each is concluded as soon as it is done; the group has one method.

    Alone, a trial's checkpoint is written after every epoch; together, at most every KEEP_SECONDS. The tracker hears of
    an epoch once a checkpoint has it, so that none is told twice.
    """

    def __init__(
        self,
        trials: Sequence[PlannedTrial],
        context: TrialContext,
        writer: AsyncWriter,
        device: torch.device,
        *,
        halving: bool = False,
    ) -> None:
        self.members = tuple(Member(trial, context) for trial in trials)
        self.context, self.writer, self.device = context, writer, device
        self.files = GroupFiles(sweep_at(context.folder), [trial.key for trial in trials])
        self.method: Method | None = None
        self.dataset: Dataset | None = None
        arms, lengths = [trial.arm for trial in trials], [trial.config.epochs for trial in trials]
        self._halving = Halving(arms, lengths) if halving else None
        self._pruned: set[int] = set()
        self._at_once, self._failures = AT_ONCE, 0
        self._kept_at, self._unkept = time.monotonic(), False
        self._away_since: float | None = None
        self._joules = meter_of(device, context.gpus) if len(trials) == 1 else None

    @property
    def first(self) -> Member:
        return self.members[0]

    @property
    def alone(self) -> bool:
        return len(self.members) == 1

    @property
    def running(self) -> list[int]:
        """Those without an outcome."""
        return [index for index, member in enumerate(self.members) if member.row is None]

    def step(self) -> list[Row]:
        """Conclude who is done, else train; a row a trial. Whatever the trials do wrong ends here, as their outcome."""
        seconds = [0.0] * len(self.members)
        try:
            if self.method is None:
                self.method = self._start()
            if not self._conclude_done():
                seconds = self._train(self.method)
        except FencedError:
            raise
        except StorageError as error:
            self._wait_for_storage(error)
        except Exception as error:
            self._went_wrong(error)
        if all(member.row is not None and member.row["state"] not in UNFINISHED for member in self.members):
            self.files.drop()
        return [member.row or self._standing(index, seconds[index]) for index, member in enumerate(self.members)]

    def stop(self, keys: Collection[str]) -> None:
        """End those of the trials that have one of the keys; with what they have learned, when the sweep goes on."""
        asked = [index for index in self.running if self.members[index].trial.key in keys]
        if asked and self.method is not None and self._unkept:
            self._keep(self.method)
        for index in asked:
            if self.method is not None:
                self.method.stop(index)
            self.members[index].row = self._standing(index) | row_of(self.members[index], STOPPED, done=True)

    def leave(self) -> None:
        """The group is given up before its end: keep its last epochs."""
        if self.method is not None and self._unkept and self.running:
            try:
                self._keep(self.method)
            except Exception as error:
                log.warning("the last epochs of %s are not kept: %s", self.first.trial.arm, error)

    def ended(self, state: str, error: str = "") -> list[Row]:
        """Rows of trials that end here without an outcome. Tune insists on the metric."""
        return [member.row or {**self._ended_row(member, state), "error": error} for member in self.members]

    # ------------------------------------------------------------------ training
    def _start(self) -> Method:
        for index in self.running:
            self.members[index].attempt.check()
            self.writer.open(self.members[index].run)
        self.files.begin(self.first.attempt if self.alone else None)
        wait_for_room(self.device, self.context.gpu_memory, free_gib)
        forget_peak(self.device)
        configs = tuple(member.trial.config for member in self.members)
        self.dataset = _dataset(configs[0])
        method = self._resumed(configs, self.dataset)
        for index, member in enumerate(self.members):
            if member.row is not None:
                method.stop(index)
            else:
                self._tell(member, method.histories[index])
        self._kept_at, self._unkept = time.monotonic(), False
        return method

    def _resumed(self, configs: Sequence[TrialConfig], dataset: Dataset) -> Method:
        """The method as the newest checkpoints that are whole have it."""
        damaged: set[Path] = set()
        while True:
            method, path = start(configs, dataset, self.device, at_once=self._at_once), None
            try:
                for folder, indices in self.files.earlier():
                    path = next((found for found in folder.checkpoints() if found not in damaged), None)
                    if path is not None:
                        method.restore(folder.file(path), [index for index in indices if index in self.running])
                return method
            except Exception as error:  # what a user's own loop meets in a damaged file has any kind
                if path is None or is_full(error) or out_of_memory(error):
                    raise
                log.warning("%s; trying the one before it", error)
                damaged.add(path)

    def _train(self, method: Method) -> list[float]:
        """An epoch; of a group as many as fit into a step, until one of its trials is done. Seconds of each trial."""
        seconds, began = [0.0] * len(self.members), time.monotonic()
        while True:
            before = self._joules() if self._joules else math.nan
            for index, measurement in enumerate(method.epoch()):
                seconds[index] += 0.0 if measurement is None else measurement.seconds
                used = self._joules() - before if self._joules else math.nan
                if math.isfinite(used) and measurement is not None and isinstance(measurement.metrics, dict):
                    measurement.metrics[JOULES] = used
            self._unkept = True
            self._keep_latents(method)
            if self._halving is not None:
                for index in self._halving.stopped(method.histories, [i for i in self.running if not method.done[i]]):
                    method.stop(index)
                    self._pruned.add(index)
            if self.alone or any(method.done[index] for index in self.running):
                break
            if time.monotonic() - began > STEP_SECONDS:
                break
        if self.alone or time.monotonic() - self._kept_at > KEEP_SECONDS:
            self._keep(method)
        return seconds

    def _keep_latents(self, method: Method) -> None:
        """Of the first epoch and every latents_every-th. Before the checkpoint: one that is there has all before it."""
        every, number = self.context.latents_every, len(method.histories[0])
        look = getattr(method, "snapshot", None)
        if every and look is not None and self.alone and (number == 1 or number % every == 0):
            self.first.attempt.check()
            path = self.first.folder.root / f"epoch-{number:04d}.npz"
            write_latents(path, look())
            self.first.folder.files.put(path)

    def _keep(self, method: Method) -> None:
        """Write the checkpoint of what has been trained."""
        for index in self.running:
            self.members[index].attempt.check()
        path = self.files.next(len(method.histories[0]))
        method.save(path)
        if self.alone and self.first.trial.role == "search":
            # For a driver whose scheduler stops it here: it can't read every method's checkpoint.
            history = [measurement.to_dict() for measurement in method.histories[0]]
            self.first.folder.write(MEASURED, {"history": history, "provenance": self._provenance()})
        self.files.keep(path, [index for index in self.running if method.histories[index]])
        self._kept_at, self._unkept = time.monotonic(), False
        for index in self.running:
            self._tell(self.members[index], method.histories[index])

    def _tell(self, member: Member, history: Sequence[Measurement]) -> None:
        """Send the tracker what it has not been sent."""
        if len(history) > member.told:
            self.writer.measured(member.signature, list(history[member.told :]))
            member.told = len(history)

    # ------------------------------------------------------------------ rows
    def _standing(self, index: int, seconds: float = 0.0) -> Row:
        """The row of a trial that goes on, or waits for its place: its last epoch, so that none seems to fall."""
        member, history = self.members[index], self._history(index)
        if history:
            member.last = {"epoch": history[-1].epoch, **history[-1].metrics}
        return {"seconds": seconds, **member.last, **row_of(member, "running", done=False)}

    def _ended_row(self, member: Member, state: str) -> Row:
        return {"epoch": 0, "val/top1": 0.0, **row_of(member, state, done=True)}

    # ------------------------------------------------------------------ how a trial ends
    def _conclude_done(self) -> bool:
        """Conclude what has ended since the last step; whether there was something."""
        assert self.method is not None
        ended = [index for index in self.running if self.method.done[index]]
        for index in ended:
            self.members[index].attempt.check()  # before a file of a successor's is written over
            try:
                self._conclude_one(self.method, index)
            except (FencedError, StorageError):
                raise
            except Exception as error:
                if self.alone or out_of_memory(error) or is_full(error):
                    raise
                self._fail(index, error)
        return bool(ended)

    def _conclude_one(self, method: Method, index: int) -> None:
        if index in method.failures:
            self._fail(index, method.failures[index])
        elif index in self._pruned:
            member, rows = self.members[index], [measurement.to_dict() for measurement in method.histories[index]]
            write_json(member.folder.root / "config.json", member.trial.config.to_dict())
            self._conclude(member, "pruned", pruned_metrics(rows), method.histories[index])
        else:
            self._finish(self.members[index], method.result(index))

    def _finish(self, member: Member, result: Result) -> None:
        self._describe(member, result.history)
        write_weights(member.folder.root, result, self.context.keep_weights)
        write_latents(member.folder.root / "latents.npz", result.latents)
        self._conclude(member, "finished", result.metrics, result.history)

    def _fail(self, index: int, error: Exception) -> None:
        member, history = self.members[index], self._history(index)
        member.attempt.check()
        self._describe(member, history)
        atomic_write(member.folder.root / "traceback.txt", "".join(traceback.format_exception(error)))
        self._conclude(member, "failed", {}, history, error=f"{type(error).__name__}: {error}")

    def _describe(self, member: Member, history: Sequence[Measurement]) -> None:
        # Of a group nothing is drawn: a drawing takes longer than a head does.
        write_described(member.folder.root, member.trial, history, draw=self.alone)

    def _conclude(
        self,
        member: Member,
        state: str,
        metrics: Mapping[str, float],
        history: Sequence[Measurement],
        error: str | None = None,
    ) -> None:
        rows = [measurement.to_dict() for measurement in history]
        member.attempt.conclude(describe_outcome(member.trial, state, metrics, rows, error, self._provenance()))
        self._tell(member, history)
        self.writer.conclude(member.run, member.folder)
        summary = {"epoch": len(history), "error": error or "", "val/top1": metrics.get("best/val/top1", np.nan)}
        member.row = {**metrics, **summary, **row_of(member, state, done=True)}

    # ------------------------------------------------------------------ what goes wrong for all of the group
    def _wait_for_storage(self, error: StorageError) -> None:
        """Not the trials' fault: what is on storage stays as it is, and they go on from it when it is back.

        StorageError: the disk is full, or the storage has been away for too long.
        """
        now = time.monotonic()
        self._away_since = self._away_since or now
        if is_full(error) or now - self._away_since > AWAY_SECONDS:
            raise error
        log.warning("%s; waiting for it", error)
        self._drop()
        time.sleep(AWAY_STEP_SECONDS)

    def _went_wrong(self, error: Exception) -> None:
        if is_full(error):
            disk = error if isinstance(error, OSError) else error.__cause__
            raise cant_write(self.first.folder.root, disk) from error  # type: ignore[arg-type]  # is_full says so
        if out_of_memory(error) and self._halve():
            return
        if isinstance(error, torch.OutOfMemoryError) and 0 < self.context.gpus < 1:
            self._requeue_exclusive()
        elif self._failures < RETRIES:
            self._failures += 1
            said = f"{type(error).__name__}: {error}"
            log.warning("%s failed (%s); once more from its checkpoint", self.first.trial.arm, said)
            self._drop()
        else:
            for index in self.running:
                self._fail(index, error)

    def _halve(self) -> bool:
        """Half as many at the same time, from the last checkpoint; whether there was something to halve."""
        at_once = min(self._at_once, len(self.running))
        if at_once == 1:
            return False
        self._at_once = at_once // 2
        log.warning("out of memory with %d trials at once: going on with %d", at_once, self._at_once)
        self._drop()
        return True

    def _requeue_exclusive(self) -> None:
        """Out of memory beside others, which may be their doing: no outcome; the driver asks again with a whole GPU."""
        log.warning("%s ran out of the GPU it shares; it is trained alone later", self.first.trial.arm)
        self._drop()
        for index in self.running:
            self.members[index].row = self._ended_row(self.members[index], OOM_SHARED_GPU)

    def _drop(self) -> None:
        self.method, self._unkept = None, False
        for index in self.running:
            self.members[index].forget_attempt()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for those who stay

    def _history(self, index: int) -> Sequence[Measurement]:
        return tuple(self.method.histories[index]) if self.method is not None else ()

    def _provenance(self) -> dict[str, str]:
        provenance = {"laresa.device": "none", "laresa.threads": str(torch.get_num_threads())}
        if self.dataset is not None:
            provenance["laresa.device"] = str(self.device)
            if (peak := peak_gib(self.device)) is not None:
                provenance["laresa.gpu_memory_gib"] = f"{peak:.2f}"
            provenance["laresa.data_fingerprint"] = self.dataset.fingerprint
            provenance["laresa.tree_fingerprint"] = self.dataset.taxonomy.fingerprint
            provenance["laresa.test_fingerprint"] = self.dataset.test_fingerprint
            provenance["laresa.fold"] = self.dataset.fold_note
        return provenance


_loaded: dict[tuple[Any, ...], Dataset] = {}


def _dataset(config: TrialConfig) -> Dataset:
    """The trials' data set; the last one stays open, as the next on this worker mostly wants the same."""
    key = data_key(config)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load(config)
    return _loaded[key]

"""What runs on a worker: train() between Tune and the tracker. The one place that catches a trial's failure."""

from __future__ import annotations

import logging
import math
import platform
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from ray import tune
from safetensors.torch import save_file

from laresa.config import TrialConfig
from laresa.data import Dataset, data_key, load
from laresa.errors import CheckpointError
from laresa.measurement import Measurement
from laresa.methods import Method, Result, start
from sweeps.service.storage.files import MEASURED, Attempt, FencedError, StorageError, TrialFolder, write_json
from sweeps.service.storage.open import sweep_at
from sweeps.service.storage.outcome import describe_outcome
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.async_writer import AsyncWriter
from sweeps.service.tracking.write import SweepRun, TrialRun
from sweeps.service.worker.checks import check_code, check_here
from sweeps.service.worker.device import trial_device
from sweeps.service.worker.gpu_memory import forget_peak, free_gib, peak_gib, wait_for_room
from sweeps.service.worker.plugins import Shipment, unpack

log = logging.getLogger("laresa.trial")
OOM_SHARED_GPU = "oom_shared_gpu"  # the state of a trial that ran out of the memory of a GPU it shares
RETRIES = 1  # of a trial that failed by itself, from its last checkpoint: memory may be free the next time
FLUSH_TIMEOUT_S = 20.0  # how long a worker that ends may go on sending; the runner delivers the rest


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share: plain data that travels to the workers. folder: a `SweepFolder.place`.

    files: name -> digest of the bytes, of the code that the trial is learned by, as the driver has it.
    """

    sweep: SweepRun
    folder: str
    cpus: float
    tags: Mapping[str, str]
    gpus: float = 0.0
    gpu_memory: float | None = None  # GiB that a trial was said to need
    files: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrialContext:
        return cls(**{**fields, "sweep": SweepRun(**fields["sweep"])})

    def trial_folder(self, trial: PlannedTrial) -> TrialFolder:
        return sweep_at(self.folder).trial(trial.key)


class TuneTrial(tune.Trainable):
    """One worker, one group of trials after another (`reuse_actors`); one step() an epoch.

    Tune's config: {"trials": [PlannedTrial as a dict, ...], "context" (TrialContext as a dict)}.
    """

    _writer: AsyncWriter | None = None

    def setup(self, config: dict[str, Any], plugins: Shipment) -> None:
        unpack(plugins)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            return group_result(self._session.step())
        except FencedError as error:
            log.warning("%s", error)
            return group_result(self._session.ended("fenced"))

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # ours lie under the signature; Tune keeps nothing that matters

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        return None

    def cleanup(self) -> None:
        if self._writer is not None:
            self._writer.stop(FLUSH_TIMEOUT_S)

    def _begin(self, config: dict[str, Any]) -> None:
        context = TrialContext.from_dict(config["context"])
        check_here(sweep_at(context.folder))
        check_code(context.files)
        device = trial_device(context.gpus)
        torch.set_num_threads(max(1, int(context.cpus)))
        if self._writer is None:
            self._writer = AsyncWriter(context.sweep.uri)
            self._writer.start()
        trials = tuple(PlannedTrial.from_dict(fields) for fields in config["trials"])
        self._session = Session(trials, context, self._writer, device)


def group_result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a step of a group reports to Tune, from what each of its trials has to say.

    rows: {"signature", "epoch", "state", "val/top1", "done", ...} each. The top level speaks for the scheduler, which
    stops all or none: a group has come as far as its furthest trial, is as good as its best, and runs while one does.
    """
    validation = [row["val/top1"] for row in rows if math.isfinite(row["val/top1"])]
    return {
        "epoch": max(row["epoch"] for row in rows),
        "state": next((row["state"] for row in rows if row["state"] == "running"), rows[0]["state"]),
        "seconds": sum(row.get("seconds", 0.0) for row in rows),
        "val/top1": max(validation, default=math.nan),
        "done": all(row["done"] for row in rows),
        "trials": [dict(row) for row in rows],
    }


class Member:
    """One trial of a group: its place on storage, its run, and the right to write its files."""

    def __init__(self, trial: PlannedTrial, context: TrialContext) -> None:
        self.trial, self.signature = trial, trial.signature
        self.folder = context.trial_folder(trial)
        self._attempt: Attempt | None = None
        tags = {**context.tags, "laresa.host": platform.node(), "laresa.threads": str(torch.get_num_threads())}
        self.run = TrialRun(context.sweep, trial, tags)

    @property
    def attempt(self) -> Attempt:
        """Taken when first needed: the right to write this trial's files."""
        if self._attempt is None:
            self._attempt = self.folder.new_attempt()
        return self._attempt

    def forget_attempt(self) -> None:
        self._attempt = None


class Session:
    """A group of trials on this worker, from its checkpoint (if any) to their outcomes on storage and in the tracker.

    The group has one method and one checkpoint, which lies with its first trial; beside it, of a search, what each has
    measured.
    """

    def __init__(
        self, trials: Sequence[PlannedTrial], context: TrialContext, writer: AsyncWriter, device: torch.device
    ) -> None:
        self.members = tuple(Member(trial, context) for trial in trials)
        self.context, self.writer, self.device = context, writer, device
        self.method: Method | None = None
        self.dataset: Dataset | None = None
        self._failures = 0

    @property
    def first(self) -> Member:
        return self.members[0]

    def step(self) -> list[dict[str, Any]]:
        """Train one epoch, or conclude; a row a trial. Whatever the trials do wrong ends here, as their outcome."""
        try:
            if self.method is None:
                self.method = self._start()
            if self.method.finished:
                return self._finish(self.method.result())
            measurements = self.method.epoch()
            self._keep()
        except (FencedError, CheckpointError, StorageError):
            raise  # not the trial's fault: what is on storage stays as it is
        except torch.OutOfMemoryError as error:
            return self._requeue_exclusive() if 0 < self.context.gpus < 1 else self._retry_or_fail(error)
        except Exception as error:
            return self._retry_or_fail(error)
        for member, measurement in zip(self.members, measurements, strict=True):
            if measurement is not None:
                self.writer.measured(member.signature, [measurement])
        seconds = [0.0 if measurement is None else measurement.seconds for measurement in measurements]
        return [self._standing(index, spent) for index, spent in enumerate(seconds)]

    def _start(self) -> Method:
        for member in self.members:
            member.attempt.check()
            self.writer.open(member.run)
        wait_for_room(self.device, self.context.gpu_memory, free_gib)
        forget_peak(self.device)
        configs = tuple(member.trial.config for member in self.members)
        self.dataset = _dataset(configs[0])
        method = start(configs, self.dataset, self.device)
        for path in self.first.folder.checkpoints():
            try:
                method.restore(self.first.folder.file(path))
                break
            except CheckpointError as error:
                log.warning("%s; trying the one before it", error)
                method = start(configs, self.dataset, self.device)
        for member, history in zip(self.members, method.histories, strict=True):
            if history:
                self.writer.measured(member.signature, history)
        return method

    def _keep(self) -> None:
        """The checkpoint of the epoch that has just ended."""
        assert self.method is not None
        for member in self.members:
            member.attempt.check()
        path = self.first.attempt.checkpoint(max(map(len, self.method.histories)))
        self.method.save(path)
        if any(member.trial.role == "search" for member in self.members):
            self._tell_measured(self.method.histories)
        self.first.attempt.keep(path)

    def _tell_measured(self, histories: Sequence[Sequence[Measurement]]) -> None:
        """For a driver whose scheduler stops a search's trials here: it can't read every method's checkpoint."""
        measured = {
            member.signature: [measurement.to_dict() for measurement in history]
            for member, history in zip(self.members, histories, strict=True)
        }
        self.first.folder.write(MEASURED, {"histories": measured, "provenance": self._provenance()})

    def _standing(self, index: int, seconds: float = 0.0) -> dict[str, Any]:
        """The row of a trial that goes on, or waits for its group: its last epoch, so that none seems to fall."""
        history = self._history(index)
        epoch, metrics = (history[-1].epoch, history[-1].metrics) if history else (0, {"val/top1": 0.0})
        return {"epoch": epoch, "seconds": seconds, **metrics, **self._row(self.members[index], "running", done=False)}

    def _row(self, member: Member, state: str, *, done: bool) -> dict[str, Any]:
        return {"signature": member.signature, "state": state, "done": done}

    def ended(self, state: str) -> list[dict[str, Any]]:
        """Rows of trials that end here without an outcome. Tune insists on the metric."""
        return [{"epoch": 0, "val/top1": 0.0, **self._row(member, state, done=True)} for member in self.members]

    # ------------------------------------------------------------------ how it ends
    def _finish(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        return self._each(lambda index: self._finish_one(self.members[index], results[index]))

    def _finish_one(self, member: Member, result: Result) -> dict[str, Any]:
        _write_artifacts(member, result.history)
        save_file(dict(result.weights), member.folder.root / "model.safetensors")
        if result.latents is not None:
            np.savez_compressed(member.folder.root / "latents.npz", allow_pickle=False, **result.latents)
        return self._conclude(member, "finished", result.metrics, result.history)

    def _each(self, conclude: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        """A row a trial. The first is concluded last: the group's checkpoint lies with it, and goes with it."""
        for member in self.members:
            member.attempt.check()  # before a file of a successor's is written over
        return [conclude(index) for index in reversed(range(len(self.members)))][::-1]

    def _requeue_exclusive(self) -> list[dict[str, Any]]:
        """Out of memory beside others, which may be their doing: no outcome; the driver asks again with a whole GPU."""
        log.warning("%s ran out of the GPU it shares; it is trained alone later", self.first.trial.arm)
        self._drop()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for those who stay
        return self.ended(OOM_SHARED_GPU)

    def _retry_or_fail(self, error: Exception) -> list[dict[str, Any]]:
        self._failures += 1
        if self._failures > RETRIES:
            return self._fail(error)
        log.warning(
            "%s failed (%s: %s); once more from its checkpoint", self.first.trial.arm, type(error).__name__, error
        )
        rows = [self._standing(index) for index in range(len(self.members))]
        self._drop()
        return rows

    def _fail(self, error: Exception) -> list[dict[str, Any]]:
        said, trace = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))

        def conclude(index: int) -> dict[str, Any]:
            member, history = self.members[index], self._history(index)
            _write_artifacts(member, history)
            (member.folder.root / "traceback.txt").write_text(trace)
            return self._conclude(member, "failed", {}, history, error=said)

        return self._each(conclude)

    def _conclude(
        self,
        member: Member,
        state: str,
        metrics: Mapping[str, float],
        history: Sequence[Measurement],
        error: str | None = None,
    ) -> dict[str, Any]:
        rows = [measurement.to_dict() for measurement in history]
        member.attempt.conclude(describe_outcome(member.trial, state, metrics, rows, error, self._provenance()))
        self.writer.conclude(member.run, member.folder)
        summary = {"epoch": len(history), "error": error or "", "val/top1": metrics.get("best/val/top1", math.nan)}
        return {**metrics, **summary, **self._row(member, state, done=True)}

    def _history(self, index: int) -> Sequence[Measurement]:
        return tuple(self.method.histories[index]) if self.method is not None else ()

    def _drop(self) -> None:
        self.method = None
        for member in self.members:
            member.forget_attempt()

    def _provenance(self) -> dict[str, str]:
        provenance = {"laresa.device": "none", "laresa.threads": str(torch.get_num_threads())}
        if self.dataset is not None:
            provenance["laresa.device"] = str(self.device)
            if (peak := peak_gib(self.device)) is not None:
                provenance["laresa.gpu_memory_gib"] = f"{peak:.2f}"
            provenance["laresa.data_fingerprint"] = self.dataset.fingerprint
            provenance["laresa.tree_fingerprint"] = self.dataset.taxonomy.fingerprint
            provenance["laresa.fold"] = self.dataset.fold_note
        return provenance


def _write_artifacts(member: Member, history: Sequence[Measurement]) -> None:
    config, root = member.trial.config, member.folder.root
    write_json(root / "config.json", config.to_dict())
    if any("weight/entropy" in measurement.metrics for measurement in history):
        from sweeps.service.worker.weight_figure import draw_weights

        draw_weights(history, root / "weights.svg", title=f"{member.trial.arm}, seed {config.seed}")


_loaded: dict[tuple[Any, ...], Dataset] = {}


def _dataset(config: TrialConfig) -> Dataset:
    """The trial's data set; the last one stays open, as the next trial on this worker mostly wants the same."""
    key = data_key(config)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load(config)
    return _loaded[key]

"""What runs on a worker: train() between Tune and the tracker. The one place that catches a trial's failure."""

from __future__ import annotations

import logging
import platform
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ray import tune
from safetensors.torch import save_file

from laresa import checkpoint
from laresa.config import TrialConfig
from laresa.data import Dataset, load
from laresa.errors import CheckpointError
from laresa.measurement import Measurement
from laresa.model import default_device
from laresa.training import Result, Trainer
from sweeps.service.storage.files import Attempt, FencedError, StorageError, TrialFolder, write_json
from sweeps.service.storage.open import sweep_at
from sweeps.service.storage.outcome import describe_outcome
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.async_writer import AsyncWriter
from sweeps.service.tracking.write import SweepRun, TrialRun
from sweeps.service.worker.checks import check_here
from sweeps.service.worker.gpu_memory import forget_peak, free_gib, peak_gib, wait_for_room

log = logging.getLogger("laresa.trial")
OOM_SHARED_GPU = "oom_shared_gpu"  # the state of a trial that ran out of the memory of a GPU it shares
RETRIES = 1  # of a trial that failed by itself, from its last checkpoint: memory may be free the next time
FLUSH_TIMEOUT_S = 20.0  # how long a worker that ends may go on sending; the runner delivers the rest


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share: plain data that travels to the workers. folder: a `SweepFolder.place`."""

    sweep: SweepRun
    folder: str
    cpus: float
    tags: Mapping[str, str]
    gpus: float = 0.0
    gpu_memory: float | None = None  # GiB that a trial was said to need

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrialContext:
        return cls(**{**fields, "sweep": SweepRun(**fields["sweep"])})

    def trial_folder(self, signature: str) -> TrialFolder:
        return sweep_at(self.folder).trial(signature)


class TuneTrial(tune.Trainable):
    """One worker, one trial after another (`reuse_actors`); one step() an epoch.

    Tune's config: {"arm", "role", "config" (TrialConfig as a dict), "context" (TrialContext as a dict)}.
    """

    _writer: AsyncWriter | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            return self._session.step()
        except FencedError as error:
            log.warning("%s", error)
            return ended("fenced")

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
        torch.set_num_threads(max(1, int(context.cpus)))
        if self._writer is None:
            self._writer = AsyncWriter(context.sweep.uri)
            self._writer.start()
        trial = PlannedTrial(config["arm"], TrialConfig.from_dict(config["config"]), config["role"])
        self._session = Session(trial, context, self._writer)


def ended(state: str) -> dict[str, Any]:
    """The result of a trial that ends here without an outcome. Tune insists on the metric."""
    return {"epoch": 0, "state": state, "val/top1": 0.0, "done": True}


class Session:
    """One trial on this worker, from its checkpoint (if any) to its outcome on storage and in the tracker."""

    def __init__(self, trial: PlannedTrial, context: TrialContext, writer: AsyncWriter) -> None:
        self.config, self.arm, self.writer = trial.config, trial.arm, writer
        self.signature, self.context = trial.signature, context
        self.folder = context.trial_folder(self.signature)
        self.trainer: Trainer | None = None
        self._attempt: Attempt | None = None
        self._failures = 0
        tags = {**context.tags, "laresa.host": platform.node(), "laresa.threads": str(torch.get_num_threads())}
        self.run = TrialRun(context.sweep, trial, tags)

    def step(self) -> dict[str, Any]:
        """Train one epoch, or conclude. Whatever the trial itself does wrong ends here, as its outcome."""
        try:
            if self.trainer is None:
                self.trainer = self._start()
            if self.trainer.finished:
                return self._finish(self.trainer.result())
            measurement = self.trainer.epoch()
            self.attempt.check()
            path = self.attempt.checkpoint(measurement.epoch)
            self.trainer.save(path)
            self.attempt.keep(path)
        except (FencedError, CheckpointError, StorageError):
            raise  # not the trial's fault: what is on storage stays as it is
        except torch.OutOfMemoryError as error:
            return self._requeue_exclusive() if 0 < self.context.gpus < 1 else self._retry_or_fail(error)
        except Exception as error:
            return self._retry_or_fail(error)
        self.writer.measured(self.signature, [measurement])
        seconds = {"seconds": measurement.seconds}
        return {"epoch": measurement.epoch, "state": "running", **seconds, **measurement.metrics, "done": False}

    @property
    def attempt(self) -> Attempt:
        """Taken when first needed: the right to write this trial's files."""
        if self._attempt is None:
            self._attempt = self.folder.new_attempt()
        return self._attempt

    def _start(self) -> Trainer:
        self.attempt.check()
        self.writer.open(self.run)
        device = default_device()
        wait_for_room(device, self.context.gpu_memory, free_gib)
        forget_peak(device)
        trainer = Trainer(self.config, dataset=_dataset(self.config), device=None)
        for path in self.folder.checkpoints():
            try:
                trainer.restore(self.folder.file(path))
                break
            except CheckpointError as error:
                log.warning("%s; trying the one before it", error)
                trainer = Trainer(self.config, dataset=trainer.dataset, device=None)
        if trainer.history:
            self.writer.measured(self.signature, trainer.history)
        return trainer

    def _finish(self, result: Result) -> dict[str, Any]:
        self._write_artifacts(result.history)
        save_file(dict(result.weights), self.folder.root / "model.safetensors")
        np.savez_compressed(self.folder.root / "latents.npz", allow_pickle=False, **result.latents)
        return self._conclude("finished", result.metrics, result.history)

    def _requeue_exclusive(self) -> dict[str, Any]:
        """Out of memory beside others, which may be their doing: no outcome; the driver asks again with a whole GPU."""
        log.warning("%s ran out of the GPU it shares; it is trained alone later", self.arm)
        self.trainer = self._attempt = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for those who stay
        return ended(OOM_SHARED_GPU)

    def _retry_or_fail(self, error: Exception) -> dict[str, Any]:
        self._failures += 1
        if self._failures > RETRIES:
            return self._fail(error)
        log.warning("%s failed (%s: %s); once more from its checkpoint", self.arm, type(error).__name__, error)
        history = self.trainer.history if self.trainer else []
        self.trainer = self._attempt = None
        last = history[-1].metrics["val/top1"] if history else 0.0  # again, so that no scheduler takes it for a fall
        return {"epoch": len(history), "state": "running", "val/top1": last, "done": False}

    def _fail(self, error: Exception) -> dict[str, Any]:
        history = tuple(self.trainer.history) if self.trainer else ()
        self._write_artifacts(history)
        (self.folder.root / "traceback.txt").write_text("".join(traceback.format_exception(error)))
        return self._conclude("failed", {}, history, error=f"{type(error).__name__}: {error}")

    def _write_artifacts(self, history: tuple[Measurement, ...]) -> None:
        write_json(self.folder.root / "config.json", self.config.to_dict())
        if any("weight/entropy" in measurement.metrics for measurement in history):
            from sweeps.service.worker.weight_figure import draw_weights

            draw_weights(history, self.folder.root / "weights.svg", title=f"{self.arm}, seed {self.config.seed}")

    def _conclude(
        self, state: str, metrics: Mapping[str, float], history: tuple[Measurement, ...], error: str | None = None
    ) -> dict[str, Any]:
        rows = [measurement.to_dict() for measurement in history]
        self.attempt.conclude(describe_outcome(self.run.trial, state, metrics, rows, error, self._provenance()))
        self.writer.conclude(self.run, self.folder)
        summary = {"epoch": len(history), "state": state, "error": error or ""}
        return {**summary, **metrics, "val/top1": metrics.get("best/val/top1", float("nan")), "done": True}

    def _provenance(self) -> dict[str, str]:
        provenance = {"laresa.device": "none", "laresa.threads": str(torch.get_num_threads())}
        if self.trainer is not None:
            data: Dataset = self.trainer.dataset
            provenance["laresa.device"] = str(self.trainer.device)
            if (peak := peak_gib(self.trainer.device)) is not None:
                provenance["laresa.gpu_memory_gib"] = f"{peak:.2f}"
            provenance["laresa.data_fingerprint"], provenance["laresa.fold"] = data.fingerprint, data.fold_note
        return provenance


def conclude_pruned(folder: TrialFolder, trial: PlannedTrial, tags: Mapping[str, str]) -> dict[str, Any]:
    """The outcome of a trial that the scheduler stopped: what it measured so far; the test split stays unseen."""
    _, state = checkpoint.load(folder.file(folder.checkpoints()[0]))
    best = state["history"][state["best_epoch"] - 1]["metrics"]
    metrics = {f"best/{name}": value for name, value in best.items() if name.startswith("val/")}
    metrics["best_epoch"] = float(state["best_epoch"])
    metrics["seconds/train"] = sum(row["seconds"] for row in state["history"])
    write_json(folder.root / "config.json", trial.config.to_dict())
    provenance = {"laresa.data_fingerprint": state["fingerprint"]}
    outcome = describe_outcome(trial, "pruned", metrics, state["history"], None, provenance)
    folder.newest_attempt().conclude(outcome)
    return outcome


_loaded: dict[tuple[Any, ...], Dataset] = {}


def _dataset(config: TrialConfig) -> Dataset:
    """The trial's data set; the last one stays open, as the next trial on this worker mostly wants the same."""
    key = (config.dataset, config.fold, config.split_seed, config.image_size, config.skip_bad_images)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load(config)
    return _loaded[key]

"""The files that a trial leaves beside its outcome, as the tracker shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from laresa.checkpoint import write_tensors
from laresa.files import atomic_write
from laresa.measurement import Measurement
from laresa.methods import Result
from sweeps.service.storage.state import write_json
from sweeps.service.study import PlannedTrial


def write_weights(root: Path, result: Result, keep: str) -> None:
    """model.safetensors of the best epoch, last.safetensors of the last. keep: of study.KEEP_WEIGHTS."""
    if keep != "none":
        write_tensors(root / "model.safetensors", result.weights)
    if keep == "all" and result.last_weights is not None:
        write_tensors(root / "last.safetensors", result.last_weights)


def write_latents(path: Path, latents: Mapping[str, np.ndarray] | None) -> None:
    """Nothing where a method has none."""
    if latents is not None:
        atomic_write(path, lambda file: np.savez_compressed(file, allow_pickle=False, **latents))


def write_described(root: Path, trial: PlannedTrial, history: Sequence[Measurement], *, draw: bool) -> None:
    """config.json; where weights are learned and it is worth its time (draw), a drawing of them."""
    write_json(root / "config.json", trial.config.to_dict())
    if draw and any("weight/entropy" in measurement.metrics for measurement in history):
        from sweeps.service.worker.weight_figure import draw_weights

        title = f"{trial.arm}, seed {trial.config.seed}"
        atomic_write(root / "weights.svg", lambda file: draw_weights(history, file, title=title))

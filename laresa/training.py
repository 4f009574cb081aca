"""train(config): one trial, an epoch at a time, resumable to the bit, whatever its method."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laresa.config import TrialConfig
from laresa.data import load
from laresa.measurement import Measurement
from laresa.methods import Result, start
from laresa.model import default_device

if TYPE_CHECKING:
    import torch

    from laresa.data.dataset import Dataset


def train(
    config: TrialConfig,
    *,
    dataset: Dataset | None = None,
    device: str | torch.device | None = None,
    save_to: Path | None = None,
    resume_from: Path | None = None,
) -> Generator[Measurement, None, Result]:
    """Train `config`; yields a Measurement after each epoch and returns the Result (the value of `yield from`).

    config: also a record's, whose components must be at hand (laresa.plugins.load).
    dataset: loaded already; else the config's own. device: default CUDA where there is one.
    save_to: checkpoint file, written after every epoch before its Measurement is yielded.
    resume_from: checkpoint to go on from; its epochs are not yielded again, they stand in Result.history.
    Raises NonFiniteLossError (which step, which term), CheckpointError, ConfigError, DataError.
    """
    config = config.checked()
    method = start((config,), dataset or load(config), device or default_device())
    if resume_from is not None:
        method.restore(resume_from, (0,))
    while not all(method.done):
        (measurement,) = method.epoch()
        if save_to is not None:
            method.save(save_to)
        for error in method.failures.values():
            raise error
        assert measurement is not None
        yield measurement
    return method.result(0)


def fit(config: TrialConfig, **options: Any) -> Result:
    """`train` to its end."""
    steps = train(config, **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result

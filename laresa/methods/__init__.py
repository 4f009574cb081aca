"""Methods: how a trial trains. End to end is the first; a user's own loop comes in by the same door (`METHODS`).

A method is made by `METHODS[name](config, data, device, **fields)`, its keyword-only parameters being its fields, and
does what `Method` says. A subclass of `laresa.methods.loop.Loop` needs three functions for that. One that trains many
configurations at once says so (`groups = True`) and is given a tuple of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from laresa.errors import ConfigError
from laresa.plugins import component

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from laresa.config import TrialConfig
    from laresa.data.dataset import Dataset
    from laresa.measurement import Measurement


@dataclass(frozen=True)
class Result:
    """What a finished trial hands over.

    metrics: "test/...", measured once, from the weights of best_epoch, and "best/val/..." of the same weights;
        "best_epoch", "collapse_step".
    weights: state dict of the model at best_epoch, on the CPU.
    latents: test latents z_ND with y_N, parent_C and the names, as stored in latents.npz; None where a method has none.
    """

    config: TrialConfig
    history: tuple[Measurement, ...]
    best_epoch: int
    metrics: Mapping[str, float]
    weights: Mapping[str, Tensor]
    latents: Mapping[str, np.ndarray] | None


class Method(Protocol):
    """How a group of trials trains (of one, mostly): each call is for the whole group, answers are a trial each.

    Randomness comes from (seed, epoch), so that a resumed run draws what an undisturbed one would have drawn.
    """

    @property
    def finished(self) -> bool:
        """Whether no trial of the group has an epoch left."""

    @property
    def histories(self) -> Sequence[Sequence[Measurement]]:
        """What each trial has measured so far, also after `restore`."""

    def epoch(self) -> Sequence[Measurement | None]:
        """Train one epoch and validate; None for a trial that had ended before."""

    def save(self, path: Path) -> None:
        """Everything a resumed run needs, in one file (see laresa.checkpoint)."""

    def restore(self, path: Path) -> None:
        """Continue from `path`. CheckpointError: damaged, or of other trials or data."""

    def result(self) -> Sequence[Result]:
        """Measure the test split, once, from each trial's best epoch."""


class One:
    """A method for one configuration, as a group of one."""

    def __init__(self, single: Any) -> None:
        self.single = single

    @property
    def finished(self) -> bool:
        return bool(self.single.finished)

    @property
    def histories(self) -> Sequence[Sequence[Measurement]]:
        return (self.single.history,)

    def epoch(self) -> Sequence[Measurement | None]:
        return (self.single.epoch(),)

    def save(self, path: Path) -> None:
        self.single.save(path)

    def restore(self, path: Path) -> None:
        self.single.restore(path)

    def result(self) -> Sequence[Result]:
        return (self.single.result(),)


def start(configs: Sequence[TrialConfig], data: Dataset, device: torch.device | str) -> Method:
    """The method of a group of trials, at its beginning. ConfigError: several, of a method that takes one."""
    import torch

    name = configs[0].method
    factory = component("METHODS", name)
    if getattr(factory, "groups", False):
        made: Method = factory(tuple(configs), data, torch.device(device))
        return made
    if len(configs) != 1:
        raise ConfigError(f"method={name!r} trains one configuration at a time, not {len(configs)}")
    return One(factory(configs[0], data, torch.device(device), **configs[0].values(name)))

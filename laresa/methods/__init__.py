"""Methods: how a trial trains. End to end is the first; a user's own loop comes in by the same door (`METHODS`).

A method is made by `METHODS[name](config, data, device, **fields)`, its keyword-only parameters being its fields, and
does what `Method` says. A subclass of `laresa.methods.loop.Loop` needs three functions for that. One that trains many
configurations at once says which may share a group, `group_key(config)`, is given a tuple of those whose key is equal,
and how many of them it may train at the same time: `METHODS[name](configs, data, device, at_once)`.

Two more static functions it may have: `try_out(config, data)`, where starting a trial to see whether it can be is too
much work, and `prepare(config, data, device, progress)` for what many trials share, done once before the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
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

AT_ONCE = 64  # trials of a group in training; beyond that a product is no faster, and early ends free places sooner


@dataclass(frozen=True)
class Result:
    """What a finished trial hands over.

    metrics: "test/...", measured once, from the weights of best_epoch, and "best/val/..." of the same weights;
        "best_epoch", "collapse_step".
    weights: state dict of the model at best_epoch, on the CPU. last_weights: at the last, where a method has it.
    latents: test latents z_ND with y_N, parent_C and the names, as stored in latents.npz; None where a method has none.
    """

    config: TrialConfig
    history: tuple[Measurement, ...]
    best_epoch: int
    metrics: Mapping[str, float]
    weights: Mapping[str, Tensor]
    latents: Mapping[str, np.ndarray] | None
    last_weights: Mapping[str, Tensor] | None = None


class Method(Protocol):
    """How a group of trials trains (of one, mostly). Answers are a trial each, in the group's order.

    Randomness comes from (seed, epoch), so that a resumed run draws what an undisturbed one would have drawn.
    """

    @property
    def done(self) -> Sequence[bool]:
        """Of each trial, whether it has no epoch left."""

    @property
    def failures(self) -> Mapping[int, Exception]:
        """Trials that failed alone, which are done. What fails all of the group is raised."""

    @property
    def histories(self) -> Sequence[Sequence[Measurement]]:
        """What each trial has measured so far, also after `restore`."""

    def epoch(self) -> Sequence[Measurement | None]:
        """Train one epoch and validate; None for a trial that is done, or waits for a place."""

    def stop(self, index: int) -> None:
        """The trial is given up by a scheduler: it is done."""

    def save(self, path: Path) -> None:
        """Everything a resumed run needs, in one file (see laresa.checkpoint)."""

    def restore(self, path: Path, indices: Collection[int]) -> None:
        """Continue these of the trials from `path`, as far as it holds them. CheckpointError: damaged or other data."""

    def result(self, index: int) -> Result:
        """Measure the test split of a trial that is done, once, from its best epoch."""


class One:
    """A method for one configuration, as a group of one."""

    failures: Mapping[int, Exception] = MappingProxyType({})  # its failures are the group's

    def __init__(self, single: Any) -> None:
        self.single, self._stopped = single, False

    @property
    def done(self) -> Sequence[bool]:
        return (self._stopped or bool(self.single.finished),)

    @property
    def histories(self) -> Sequence[Sequence[Measurement]]:
        return (self.single.history,)

    def epoch(self) -> Sequence[Measurement | None]:
        return (self.single.epoch(),)

    def stop(self, index: int) -> None:
        self._stopped = True

    def save(self, path: Path) -> None:
        self.single.save(path)

    def restore(self, path: Path, indices: Collection[int]) -> None:
        self.single.restore(path)

    def result(self, index: int) -> Result:
        found: Result = self.single.result()
        return found

    def snapshot(self) -> Mapping[str, np.ndarray] | None:
        """Validation latents of the last epoch, as `measure.latents_of`; None where it has none."""
        look = getattr(self.single, "snapshot", None)
        found: Mapping[str, np.ndarray] | None = look() if look is not None else None
        return found


def start(
    configs: Sequence[TrialConfig], data: Dataset, device: torch.device | str, *, at_once: int = AT_ONCE
) -> Method:
    """The method of a group of trials, at its beginning. at_once: the most that train at the same time, where several
    can. ConfigError: several, of a method that takes one, or of other keys.
    """
    import torch

    name, keys = configs[0].method, {group_key(config) for config in configs}
    factory = component("METHODS", name)
    if None not in keys:
        if len(keys) > 1:
            raise ConfigError(f"method={name!r} can't train these {len(configs)} together: {', '.join(map(str, keys))}")
        made: Method = factory(tuple(configs), data, torch.device(device), at_once)
        return made
    if len(configs) != 1:
        raise ConfigError(f"method={name!r} trains one configuration at a time, not {len(configs)}")
    return One(factory(configs[0], data, torch.device(device), **configs[0].values(name)))


def try_out(config: TrialConfig, data: Dataset) -> None:
    """Start a trial on the CPU, or as much of it as tells whether it can be. ConfigError, DataError: it can't."""
    if (own := getattr(component("METHODS", config.method), "try_out", None)) is None:
        start((config,), data, "cpu")
    else:
        own(config, data)


def preparation(config: TrialConfig) -> Callable[..., Any] | None:
    """`prepare(config, data, device, progress)` of its method, where there is something to prepare."""
    found: Callable[..., Any] | None = getattr(component("METHODS", config.method), "prepare", None)
    return found


def group_key(config: TrialConfig) -> str | None:
    """Trials of equal keys can be trained as one group; None: its method trains one at a time."""
    key = getattr(component("METHODS", config.method), "group_key", None)
    return None if key is None else f"{config.method} {key(config)}"

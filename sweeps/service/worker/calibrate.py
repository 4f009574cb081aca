"""What nobody has measured yet, measured now: an epoch's seconds, and what it takes of a GPU's memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from sweeps.service.worker.gpu_memory import forget_peak, peak_gib

if TYPE_CHECKING:
    from laresa.data.dataset import Dataset, Split

EPOCHS = 2  # the first warms up
STEPS = 12  # of an epoch where the data set has many more
FORWARD = 1 / 3  # of what training takes of an image: validation has no backward pass


@dataclass(frozen=True)
class Calibration:
    """seconds: of an epoch. gib: the most that was held of the GPU; None on the CPU."""

    seconds: float
    gib: float | None


def calibrate(config: TrialConfig, threads: int, device: str) -> Calibration:
    """Train two short epochs, keep nothing, and tell of the second; of a large data set they have STEPS steps, and what
    a whole one takes is reckoned from the number of images.

    ConfigError where the device is "cuda" and this machine has none: seconds on another one would tell nothing.
    """
    import torch

    from laresa.data import load
    from laresa.seeds import threads as use_threads
    from laresa.training import train

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--calibrate: trials would use a GPU and this machine has none; calibrate where one is")
    whole = load(config)
    few, place = shortened(config, whole), torch.device(device)
    with use_threads(threads):
        forget_peak(place)
        steps = train(config.replace(epochs=max(EPOCHS, config.epochs)), dataset=few, device=device)
        seconds = [next(steps).seconds for _ in range(EPOCHS)][-1]
        return Calibration(seconds * _work(whole) / _work(few), peak_gib(place))


def shortened(config: TrialConfig, data: Dataset) -> Dataset:
    """As many training images as STEPS steps take, a step's of the others, evenly spread; the data set itself where
    that is most of it, or what its method takes of the images is shared by all trials (heads).
    """
    from laresa.methods import preparation

    if preparation(config) is not None or len(data.train) < 2 * STEPS * config.batch_size:
        return data
    step = config.batch_size
    return replace(data, train=_some(data.train, STEPS * step), val=_some(data.val, step), test=_some(data.test, step))


def _some(split: Split, count: int) -> Split:
    every = max(1, len(split) // count)
    return replace(split, images=split.images[::every][:count], labels=split.labels[::every][:count])


def _work(data: Dataset) -> float:
    return len(data.train) + FORWARD * len(data.val)

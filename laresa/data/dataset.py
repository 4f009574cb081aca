"""What every data set becomes: three splits of uint8 images, their labels, and the tree above the labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laresa.errors import DataError
from laresa.taxonomy import Taxonomy

Statistics = tuple[float, float, float]

IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """images: uint8 [N, 3, H, W], possibly a memory map shared with other processes: don't write to it.

    labels: int64 [N], indices into the taxonomy's classes.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """One fold of a data set.

    mean, std: of the training images by channel, in units of [0, 1]; ImageNet's where the protocol says so.
    fold_note: what this fold trains, validates and tests on, in words to print beside its results.
    fingerprint: 16 hex digits over pixels, labels and class names; the same on every machine and for every fold.
    """

    name: str
    taxonomy: Taxonomy
    train: Split
    val: Split
    test: Split
    mean: Statistics
    std: Statistics
    fold_note: str
    fingerprint: str


def fingerprint(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    """16 hex digits of sha256 over shape, pixels, labels and class names."""
    digest = hashlib.sha256(repr((images.shape, classes)).encode())
    for start in range(0, len(images), 4096):  # by parts: the array may be a memory map larger than the memory
        digest.update(images[start : start + 4096].tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def statistics(images: NDArray[np.uint8]) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation by channel in units of [0, 1], exact: from a histogram of the 256 values."""
    counts = np.zeros((3, 256))
    for start in range(0, len(images), 1024):
        for channel in range(3):
            counts[channel] += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    values = np.arange(256) / 255.0
    weights = counts / counts.sum(1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(np.maximum(weights @ values**2 - mean**2, 1e-12))  # a constant channel must not divide by zero
    return _three(mean), _three(std)


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [N, 3, size, size], bilinear with antialiasing."""
    if images.shape[-1] == size:
        return images
    pixels = torch.from_numpy(images).float()
    pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return pixels.round_().clamp_(0, 255).to(torch.uint8).numpy()


def check_fold(name: str, fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise DataError(f"fold={fold}: {name} has {folds} folds, 0 to {folds - 1}")


def _three(values: NDArray[np.float64]) -> Statistics:
    red, green, blue = (float(value) for value in values)
    return red, green, blue

"""What every data set becomes: three splits of uint8 images, their labels, and the tree above the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import psutil
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from laresa.errors import DataError
from laresa.fields import Doc
from laresa.taxonomy import Taxonomy

if TYPE_CHECKING:
    from pathlib import Path

    from laresa.data.cache import Source

Statistics = tuple[float, float, float]

LARGEST = 4096  # pixels of a side
IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, which part of them, and how they are changed in training and for more tests."""

    dataset: Annotated[str, Doc("a name of `laresa data list`, the path of a folder, or a plugin's")] = "emoji120"
    fold: Annotated[int, Ge(0), Doc("which part is tested; --folds sets it")] = 0
    split_seed: Annotated[
        int,
        Ge(0),
        Le(2**63 - 1),
        Doc("cuts test images in halves where there is no validation part; draws train_fraction and shots"),
    ] = 42
    image_size: Annotated[int | None, Gt(0), Le(LARGEST), Doc("pixels; default: the data set's own")] = None
    skip_bad_images: Annotated[bool, Doc("leave out images that don't decode, instead of refusing")] = False
    exchange_splits: Annotated[bool, Doc("validation and test part change places: for searches on a reserved fold")] = (
        False
    )
    train_fraction: Annotated[
        float, Gt(0), Le(1), Doc("share of each class's training images; drawn by split_seed and fold, nested")
    ] = 1.0
    shots: Annotated[int | None, Gt(0), Doc("training images a class, at most; drawn like train_fraction")] = None
    augment: Annotated[str, Doc("augmentations joined by +, or none")] = "crop+flip"
    normalisation: Annotated[
        Literal["auto", "none", "imagenet", "data"],
        Doc("none (pixels 0 to 1), ImageNet's, or the data set's; auto: what pretrained weights expect, else data"),
    ] = "auto"
    corruptions: Annotated[
        Literal["none", "all"], Doc("all: tested also on noise, blur, contrast, jpeg and shift, at five strengths each")
    ] = "none"


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

    @cached_property
    def test_fingerprint(self) -> str:
        """16 hex digits over the test part: replicates that have it in common are tested on the same images."""
        return fingerprint(self.test.images.numpy(), self.test.labels.numpy(), self.taxonomy.names)


@dataclass(frozen=True)
class DataSource:
    """How a data set is had (DATASETS).

    fn: (fold, split_seed, image_size or None) -> Dataset; its keyword-only parameters are fields.
    folds: how many there are. source: of our own, its files before they are decoded, by the folder they lie in.
    """

    fn: Callable[..., Dataset]
    folds: int | Callable[[], int] = 1
    source: Callable[[Path | None], Source] | None = None


def make_dataset(
    name: str,
    taxonomy: Taxonomy,
    *,
    train: tuple[Any, Any],
    val: tuple[Any, Any],
    test: tuple[Any, Any],
    fold_note: str = "",
) -> Dataset:
    """A Dataset from (uint8 images [N, 3, H, W], int labels [N]) of each part, arrays or tensors; the rest is computed.

    DataError: a shape, type or label that does not fit.
    """
    parts = {}
    for part, (images, labels) in {"train": train, "val": val, "test": test}.items():
        pixels, y_N = torch.as_tensor(images), torch.as_tensor(labels).long()
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) != len(y_N):
            raise DataError(
                f"data set {name!r}, {part}: images {pixels.dtype} {list(pixels.shape)} with {len(y_N)} labels: "
                "expected uint8 [N, 3, H, W] and N labels"
            )
        if len(y_N) == 0 or y_N.min() < 0 or y_N.max() >= taxonomy.leaves:
            raise DataError(f"data set {name!r}, {part}: expected labels from 0 to {taxonomy.leaves - 1}, one at least")
        parts[part] = Split(pixels.contiguous(), y_N)
    images = np.concatenate([split.images.numpy() for split in parts.values()])
    labels = np.concatenate([split.labels.numpy() for split in parts.values()])
    mean, std = statistics(parts["train"].images.numpy())
    known = fingerprint(images, labels, taxonomy.names)
    return Dataset(name, taxonomy, **parts, mean=mean, std=std, fold_note=fold_note or name, fingerprint=known)


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
    """uint8 [N, 3, size, size], bilinear with antialiasing. DataError: there is no memory for them."""
    if images.shape[-1] == size:
        return images
    needed, free = 9 * 3 * len(images) * size**2, psutil.virtual_memory().available  # floats, twice, then bytes
    if needed > free:
        raise DataError(
            f"{len(images):,} images at image_size={size} take {needed / 1e9:,.1f} GB of memory to make, of which "
            f"{free / 1e9:,.1f} are free: expected a smaller image_size"
        )
    pixels = torch.from_numpy(images).float()
    pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return pixels.round_().clamp_(0, 255).to(torch.uint8).numpy()


def check_fold(name: str, fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise DataError(f"fold={fold}: {name} has {folds} folds, 0 to {folds - 1}")


def _three(values: NDArray[np.float64]) -> Statistics:
    red, green, blue = (float(value) for value in values)
    return red, green, blue

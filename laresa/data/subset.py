"""A part of the training images: so much of every class, one part within the next larger one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from laresa.data.dataset import Dataset, Split


def rows(
    y_N: NDArray[np.int64], *, fraction: float | None = None, shots: int | None = None, seed: tuple[int, int]
) -> NDArray[np.int64]:
    """Ascending indices of the images to keep, one a class at least.

    fraction: the share of every class; shots: so many of every class, all of it where it has fewer; one of them.
    seed: two numbers >= 0. They put each class's images in an order, and what is kept are its first: with equal seed
    and labels the fewer of a class lie within the more, whether shares or shots.
    Shares of small classes are no whole numbers: rounded up for some classes and down for others, drawn by the seed but
    spread evenly, so that of classes of one size the sum is right.
    """
    generator = np.random.default_rng(np.random.SeedSequence([*seed, *b"subset"]))
    classes, count_C = np.unique(y_N, return_counts=True)
    dither_C = (generator.permutation(len(classes)) + 0.5) / len(classes)
    if shots is not None:
        keep_C = np.minimum(shots, count_C)
    else:
        keep_C = np.maximum(np.floor((1.0 if fraction is None else fraction) * count_C + dither_C), 1).astype(np.int64)
    order_N = generator.permutation(len(y_N))
    order_N = order_N[np.argsort(y_N[order_N], kind="stable")]  # class by class, random within
    rank_N = np.arange(len(y_N)) - np.repeat(np.cumsum(count_C) - count_C, count_C)
    return np.sort(order_N[rank_N < np.repeat(keep_C, count_C)])


def cut(dataset: Dataset, *, fraction: float | None, shots: int | None, seed: tuple[int, int]) -> Dataset:
    """The data set with a part of its training images, copied into memory. All else stays, normalisation too."""
    if fraction is None and shots is None:
        return dataset
    train = dataset.train
    kept_N = torch.from_numpy(rows(train.labels.numpy(), fraction=fraction, shots=shots, seed=seed))
    note = f"{dataset.fold_note}; trains on {len(kept_N)} of {len(train)} images"
    return replace(dataset, train=Split(train.images[kept_N], train.labels[kept_N]), fold_note=note)

"""A fold of emoji120 with features that are at hand at once, for heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laresa.config import TrialConfig
from laresa.data import Dataset, load
from laresa.data.corruptions import corrupted_parts
from laresa.features import Features

BASE = TrialConfig(
    method="heads", dataset="emoji120", train_fraction=0.3, epochs=3, patience=100, batch_size=32, seed=0, subset="ce"
)
WIDTH = 48


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load(BASE)


@pytest.fixture(scope="module")
def features(data: Dataset) -> Features:
    """Random projections of the pixels: separable, and at hand at once."""
    rows = [projected(split.images) for split in (data.train, data.val, data.test)]
    corrupted = {key: projected(images[:]) for key, images in corrupted_parts(data.test.images).items()}
    return Features(*rows, key="random", weights="none", corrupted=corrupted)


def projected(images: Tensor) -> Tensor:
    drawn = torch.randn(images[0].numel(), WIDTH, generator=torch.Generator().manual_seed(0)) / 50
    return (images.flatten(1).float() / 255 - 0.5) @ drawn

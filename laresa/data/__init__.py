"""The data room: `load` a data set by name or folder, as three splits of uint8 images and a taxonomy."""

from __future__ import annotations

from pathlib import Path

from laresa.config import TrialConfig
from laresa.data import emoji120
from laresa.data.dataset import Dataset, Split
from laresa.errors import DataError, nearest

__all__ = ["Dataset", "Split", "folds", "load", "names"]


def names() -> tuple[str, ...]:
    """The data sets that have a name; any folder is one too."""
    return ("emoji120",)


def folds(name: str) -> int:
    """How many different folds a data set has."""
    return emoji120.FOLDS


def load(
    config: TrialConfig | str,
    *,
    fold: int | None = None,
    split_seed: int | None = None,
    image_size: int | None = None,
    root: str | Path | None = None,
) -> Dataset:
    """One fold of a data set."""
    name = config if isinstance(config, str) else config.dataset
    if isinstance(config, TrialConfig):
        fold = config.fold if fold is None else fold
        image_size = config.image_size if image_size is None else image_size
    if name != "emoji120":
        raise DataError(f"unknown data set {name!r}{nearest(name, names())}")
    return emoji120.load(fold=fold or 0, image_size=image_size)

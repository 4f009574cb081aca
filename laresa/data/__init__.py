"""The data room: `load` a data set by its name or folder, as three splits of uint8 images and a taxonomy."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig
from laresa.data import cache, cifar100, cub200, emoji120, folder, tinyimagenet
from laresa.data.cache import Source
from laresa.data.dataset import Dataset, Split
from laresa.errors import DataError, nearest

__all__ = ["Dataset", "Split", "folds", "key", "load", "names", "prepare"]

DEFAULT_SPLIT_SEED = 42  # the paper's
FIELDS = ("dataset", "fold", "split_seed", "exchange_splits", "image_size", "skip_bad_images")  # what `load` reads

_SOURCES: dict[str, Callable[[Path | None], Source]] = {
    "cifar100": cifar100.source,
    "cub200": cub200.source,
    "tinyimagenet": tinyimagenet.source,
}


def names() -> tuple[str, ...]:
    """The data sets that have a name. A folder, or an .npz from the build of emoji120, is a data set too."""
    return ("emoji120", *_SOURCES)


def load(
    config: TrialConfig | str,
    *,
    fold: int | None = None,
    split_seed: int | None = None,
    image_size: int | None = None,
    root: str | Path | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """One fold of a data set.

    config: a name of `names()`, the path of a folder or of an .npz, or a TrialConfig, which also gives what the
        keywords leave open (else fold 0, split seed 42, the data set's own image size) and whether validation and test
        part change places.
    root: where a data set that isn't embedded lies; default $LARESA_DATA, else ~/data.
    skip_bad: for a folder, leave out images that don't decode.
    Raises DataError for an unknown name (the nearest is given), data that isn't there or doesn't fit, an unknown fold.
    """
    name = config if isinstance(config, str) else config.dataset
    if isinstance(config, TrialConfig):
        fold = config.fold if fold is None else fold
        split_seed = config.split_seed if split_seed is None else split_seed
        image_size = config.image_size if image_size is None else image_size
        skip_bad = skip_bad or config.skip_bad_images
    fold, split_seed = fold or 0, DEFAULT_SPLIT_SEED if split_seed is None else split_seed
    if _embedded(name):
        data = emoji120.load(fold=fold, image_size=image_size, path=None if name == "emoji120" else name)
    else:
        found = source(name, root=root, skip_bad=skip_bad)
        data = cache.open_prepared(found, cache.prepare(found, image_size), fold=fold, split_seed=split_seed)
    return _exchanged(data) if isinstance(config, TrialConfig) and config.exchange_splits else data


def _exchanged(data: Dataset) -> Dataset:
    """What was kept for the test is validated on, and the other way round."""
    note = f"{data.fold_note}; validation and test part exchanged"
    return replace(data, val=data.test, test=data.val, fold_note=note)


def key(config: TrialConfig) -> tuple[Any, ...]:
    """Equal for configurations that `load` answers with the same data."""
    return tuple(getattr(config, name) for name in FIELDS)


def prepare(
    name: str, image_size: int | None = None, *, root: str | Path | None = None, skip_bad: bool = False
) -> Path | None:
    """Decode a data set into this node's cache, so that the first trial finds it there; the folder it lies in.

    None for emoji120, which needs none. `load` does the same by itself: once a node, however many processes ask.
    """
    return None if _embedded(name) else cache.prepare(source(name, root=root, skip_bad=skip_bad), image_size)


def folds(name: str, *, root: str | Path | None = None) -> int:
    """The number of different folds: 6 design families in emoji120; elsewhere see `Source.folds`."""
    if _embedded(name):
        return emoji120.folds(None if name == "emoji120" else name)
    return 2 if name in _SOURCES else source(name, root=root).folds


def source(name: str, *, root: str | Path | None = None, skip_bad: bool = False) -> Source:
    """The data set's files and labels, nothing decoded yet."""
    if name in _SOURCES:
        return _SOURCES[name](Path(root) if root else None)
    path = Path(name).expanduser()
    if path.is_dir():
        return folder.source(path, skip_bad=skip_bad)
    if os.sep in name or name.startswith(("~", ".")):
        raise DataError(f"no such folder: {path}")
    raise DataError(f"unknown data set {name!r}{nearest(name, names())} (or give the path of a folder)")


def _embedded(name: str) -> bool:
    return name == "emoji120" or name.endswith(".npz")

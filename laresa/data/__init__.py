"""The data room: `load` a data set by its name or folder, as three splits of uint8 images and a taxonomy."""

from __future__ import annotations

import importlib
import inspect
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laresa.data import subset
from laresa.data.dataset import Dataset, DataSource, Split
from laresa.errors import DataError, nearest
from laresa.paths import expanded
from laresa.plugins import table

if TYPE_CHECKING:
    from laresa.config import TrialConfig
    from laresa.data.cache import Source

__all__ = ["Dataset", "Split", "data_key", "folds", "load", "loader_module", "names", "prepare", "source"]

DEFAULT_SPLIT_SEED = 42  # the paper's
KEY = (
    *("dataset", "fold", "split_seed", "image_size", "skip_bad_images", "exchange_splits"),
    *("train_fraction", "shots"),
)


def names() -> tuple[str, ...]:
    """The data sets that have a name. A folder or an .npz that `laresa data build` wrote is one too."""
    return tuple(table("DATASETS"))


def data_key(config: TrialConfig) -> tuple[Any, ...]:
    """What decides which images a configuration trains, validates and tests on: equal keys, equal data sets."""
    own = config.values(config.dataset)
    return (*(getattr(config, name) for name in KEY), *sorted(own.items()))


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
        keywords leave open (else fold 0, split seed 42, the data set's own image size), and the part of the training
        images that is used (train_fraction, shots).
    root: where a data set that isn't embedded lies; default $LARESA_DATA, else ~/data.
    skip_bad: for a folder, leave out images that don't decode.
    Raises DataError for an unknown name (the nearest is given), data that isn't there or doesn't fit, an unknown fold.
    """
    exchange, fraction, shots = False, None, None
    if isinstance(config, str):
        name, own = config, dict[str, Any]()
    else:
        name, own, exchange = config.dataset, config.values(config.dataset), bool(config.exchange_splits)
        fraction, shots = config.train_fraction, config.shots
        fold = config.fold if fold is None else fold
        split_seed = config.split_seed if split_seed is None else split_seed
        image_size = config.image_size if image_size is None else image_size
        skip_bad = skip_bad or config.skip_bad_images
    split_seed = DEFAULT_SPLIT_SEED if split_seed is None else split_seed
    found = _load(name, fold or 0, split_seed, image_size, root, skip_bad, own)
    # By the data's seed and not the trial's: arms and replicates of a fold are compared on the same training images.
    found = subset.cut(found, fraction=fraction, shots=shots, seed=(split_seed, fold or 0))
    return _exchanged(found) if exchange else found


def _load(
    name: str,
    fold: int,
    split_seed: int,
    image_size: int | None,
    root: str | Path | None,
    skip_bad: bool,
    own: Mapping[str, Any],
) -> Dataset:
    if name.endswith(".npz"):
        made: Dataset = _module(_builder(name)).load(fold=fold, image_size=image_size, path=name)
        return made
    found = _named(name)
    if found is not None and (root is None or found.source is None):
        return _called(name, found, fold, split_seed, image_size, own)
    files, cache = source(name, root=root, skip_bad=skip_bad), _module("cache")
    opened: Dataset = cache.open_prepared(files, cache.prepare(files, image_size), fold=fold, split_seed=split_seed)
    return opened


def _called(
    name: str, found: DataSource, fold: int, split_seed: int, image_size: int | None, own: Mapping[str, Any]
) -> Dataset:
    """What a data set's own function gives, looked at."""
    if not 0 <= fold < folds(name):
        raise DataError(f"fold={fold}: {name} has {folds(name)} folds, 0 to {folds(name) - 1}")
    made = found.fn(fold, split_seed, image_size, **own)
    if not isinstance(made, Dataset):
        raise DataError(f"data set {name!r} gave {type(made).__name__}: expected a laresa.data.Dataset (make_dataset)")
    return made


def _exchanged(dataset: Dataset) -> Dataset:
    """Judged by what the fold tests, so that nothing that a replicate is tested on is looked at."""
    note = f"{dataset.fold_note}; validation and test part exchanged"
    return replace(dataset, val=dataset.test, test=dataset.val, fold_note=note)


def prepare(
    name: str, image_size: int | None = None, *, root: str | Path | None = None, skip_bad: bool = False
) -> Path | None:
    """Decode a data set into this node's cache, so that the first trial finds it there; the folder it lies in.

    None for one that needs no decoding. `load` does the same by itself: once a node, however many processes ask.
    """
    found = _named(name)
    if name.endswith(".npz") or (found is not None and found.source is None):
        return None
    prepared: Path = _module("cache").prepare(source(name, root=root, skip_bad=skip_bad), image_size)
    return prepared


def folds(name: str, *, root: str | Path | None = None) -> int:
    """The number of different folds: 6 design families in emoji120; elsewhere `Source.folds`, or a plugin's word."""
    if name.endswith(".npz"):
        return int(_module(_builder(name)).folds(name))
    found = _named(name)
    if found is not None:
        return found.folds if isinstance(found.folds, int) else found.folds()
    return source(name, root=root).folds


def source(name: str, *, root: str | Path | None = None, skip_bad: bool = False) -> Source:
    """The data set's files and labels, nothing decoded yet."""
    found = _named(name)
    if found is not None and found.source is not None:
        return found.source(Path(root) if root else None)
    path = expanded(name, "data set")
    if path.is_dir():
        files: Source = _module("folder").source(path, skip_bad=skip_bad)
        return files
    if os.sep in name or name.startswith(("~", ".")):
        raise DataError(f"no such folder: {path}")
    raise DataError(f"unknown data set {name!r}{nearest(name, names())} (or give the path of a folder)")


def loader_module(name: str) -> Path:
    """The file whose code makes a data set what it is."""
    found = _named(name)
    if found is None:
        return Path(inspect.getfile(_module(_builder(name) if name.endswith(".npz") else "folder")))
    return Path(inspect.getfile(found.source or found.fn))


def _named(name: str) -> DataSource | None:
    found = table("DATASETS").get(name)
    return found if found is None or isinstance(found, DataSource) else DataSource(found)


def _builder(path: str) -> str:
    """Of which data set a file is a build: icons158's has groups."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "icons158" if "groups.npy" in archive.namelist() else "emoji120"
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} can't be read: {error}") from error


def _module(name: str) -> Any:
    """By name and not by import: what loads one data set is no part of the code of trials on another (laresa.code)."""
    return importlib.import_module(f"laresa.data.{name}")

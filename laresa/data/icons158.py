"""icons158, embedded: 158 everyday things in 20 groups, as drawn by a hundred vendors. Some ten thousand grey pictures.

The folds are made by VENDOR, never by image: eleven groups of vendors that share no near copy
(`laresa.data.icons158_build` says how they were made). Fold f of 0 to 9 tests group f, validates on the next of these
ten and trains on the other nine, the eleventh included: ten test sets that have no image in common. Fold 10 tests the
eleventh group: it is kept for choosing settings, and no replicate is tested on it unless asked for. Not every vendor
draws every thing, so a test set may lack a few classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laresa.data.dataset import Dataset, DataSource, Split, check_fold, fingerprint, resize, statistics
from laresa.data.embedded import read
from laresa.taxonomy import Taxonomy

GROUPS = 11
ARRAYS = frozenset({"images", "labels", "groups", "families", "classes", "coarse", "credits"})


def load(*, fold: int = 0, image_size: int | None = None, path: str | Path | None = None) -> Dataset:
    """One fold of the embedded file, or of another that `laresa.data.icons158_build.build` wrote.

    image_size: pixels; another than the file's (32) is interpolated. DataError: a fold that isn't there, a file that
    isn't such a build.
    """
    arrays = _read(path)
    check_fold("icons158", fold, GROUPS)
    validated = (fold + 1) % (GROUPS - 1)
    colour = np.repeat(arrays["images"][:, None], 3, 1)
    images, labels, group_N = resize(colour, image_size or colour.shape[-1]), arrays["labels"], arrays["groups"]
    parts = {
        "train": (group_N != fold) & (group_N != validated),
        "val": group_N == validated,
        "test": group_N == fold,
    }
    splits = {
        part: Split(torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]))
        for part, chosen in parts.items()
    }
    mean, std = statistics(images[parts["train"]])
    tree = taxonomy(path)
    vendors = len(set(arrays["families"][parts["test"]].tolist()))
    note = f"tests group {fold} ({vendors} vendors), validates on group {validated}, trains on the other nine"
    return Dataset(
        name="icons158" if path is None else Path(path).stem,
        taxonomy=tree,
        **splits,
        mean=mean,
        std=std,
        fold_note=f"fold {fold} of {GROUPS}: {note}",
        fingerprint=fingerprint(arrays["images"], labels, tree.names),
    )


def folds(path: str | Path | None = None) -> int:
    return GROUPS


def image_count() -> int:
    """Images in the embedded file."""
    return len(_read(None)["labels"])


def taxonomy(path: str | Path | None = None) -> Taxonomy:
    """Class, group."""
    arrays = _read(path)
    rows = zip(arrays["classes"].tolist(), arrays["coarse"].tolist(), strict=True)
    return Taxonomy.from_paths({fine: (coarse,) for fine, coarse in rows})


def credits() -> list[str]:
    """A line for each icon set: prefix, name, author, licence, address."""
    found: list[str] = _read(None)["credits"].tolist()
    return found


def _read(path: str | Path | None) -> dict[str, NDArray[Any]]:
    return read("icons158", path, ARRAYS)


def _load(fold: int, split_seed: int, image_size: int | None) -> Dataset:
    return load(fold=fold, image_size=image_size)


DATASETS = {"icons158": DataSource(_load, folds)}

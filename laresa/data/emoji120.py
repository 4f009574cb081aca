"""emoji120, the embedded data set: 120 everyday things, each drawn by up to six hands. A few hundred pictures.

The classes form a tree of three levels (24 groups of five, in 5 categories). The folds are made by DESIGN FAMILY, never
by image: the pictures of one hand are near copies of each other, so an image of a trained family in the test set would
measure memory. Fold f tests family f, validates on family f + 1 and trains on the other four; 6 folds, and the folds
are the replicates of a paired comparison. In order: noto, noto-v1, fxemoji, fluent, twemoji, emojione.

fluent is one hand in three renderings (colour, flat, high contrast), so the three never stand on two sides of a fold.
All three train; but as test or validation images only the colour rendering is taken: three near copies of a class are
no three independent answers, and every fold shall test a class once. fxemoji draws 91 of the classes only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laresa.data.dataset import Dataset, DataSource, Split, check_fold, fingerprint, resize, statistics
from laresa.data.embedded import read
from laresa.errors import DataError
from laresa.taxonomy import Taxonomy

ARRAYS = frozenset({"images", "labels", "families", "sets", "classes", "coarse", "category"})


def load(*, fold: int = 0, image_size: int | None = None, path: str | Path | None = None) -> Dataset:
    """One fold of the embedded file, or of another that `laresa.data.emoji120_build.build` wrote.

    image_size: pixels; another than the file's (32) is interpolated. Mean and deviation are those of the trained
    families. Raises DataError for a fold that isn't there or a file that isn't such a build.
    """
    arrays = _read(path)
    count, families = folds(path), _families(arrays)
    check_fold("emoji120", fold, count)
    images = resize(arrays["images"], image_size or arrays["images"].shape[-1])
    tested, validated = families[fold], families[(fold + 1) % count]
    parts = {
        "train": ~np.isin(arrays["families"], (tested, validated)),
        "val": _one_a_class(arrays, validated),
        "test": _one_a_class(arrays, tested),
    }
    splits = {
        part: Split(torch.from_numpy(images[chosen]), torch.from_numpy(arrays["labels"][chosen]))
        for part, chosen in parts.items()
    }
    mean, std = statistics(images[parts["train"]])
    tree = taxonomy(path)
    note = (
        f"tests family {_described(arrays, tested)}, validates on {_described(arrays, validated)}, trains on the rest"
    )
    return Dataset(
        name="emoji120" if path is None else Path(path).stem,
        taxonomy=tree,
        **splits,
        mean=mean,
        std=std,
        fold_note=f"fold {fold} of {count}: {note}",
        fingerprint=fingerprint(images, arrays["labels"], tree.names),
    )


def folds(path: str | Path | None = None) -> int:
    """One fold for each design family in the file; DataError below three, which a fold needs."""
    count = len(_families(_read(path)))
    if count < 3:
        raise DataError(f"{path} holds {count} design families: a fold tests one, validates on one, trains on the rest")
    return count


def taxonomy(path: str | Path | None = None) -> Taxonomy:
    """Class, group, category."""
    arrays = _read(path)
    rows = zip(arrays["classes"], arrays["coarse"], arrays["category"], strict=True)
    return Taxonomy.from_paths({str(fine): (str(coarse), str(category)) for fine, coarse, category in rows})


def image_count() -> int:
    """Images in the embedded file, all families and renderings."""
    return len(_read(None)["labels"])


def _read(path: str | Path | None) -> dict[str, NDArray[Any]]:
    return read("emoji120", path, ARRAYS)


def _families(arrays: dict[str, NDArray[Any]]) -> list[str]:
    return list(dict.fromkeys(arrays["families"].tolist()))


def _renderings(arrays: dict[str, NDArray[Any]], family: str) -> list[str]:
    return list(dict.fromkeys(arrays["sets"][arrays["families"] == family].tolist()))


def _one_a_class(arrays: dict[str, NDArray[Any]], family: str) -> NDArray[np.bool_]:
    """The family's first rendering; of fluent that is the one in colour."""
    chosen: NDArray[np.bool_] = arrays["sets"] == _renderings(arrays, family)[0]
    return chosen


def _described(arrays: dict[str, NDArray[Any]], family: str) -> str:
    first, *others = _renderings(arrays, family)
    return f"{family} (rendering {first} only)" if others else family


def _load(fold: int, split_seed: int, image_size: int | None) -> Dataset:
    return load(fold=fold, image_size=image_size)


DATASETS = {"emoji120": DataSource(_load, folds)}

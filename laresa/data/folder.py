"""A user's own data set: a folder of images by class, and a taxonomy.json.

    taxonomy.json            {"groups": {"coarse": ["fine", ...]}} or {"paths": {...}}, optional "descriptions";
                             without it the data set is flat: its classes are the folders of train/
    train/<fine>/*           any format that Pillow reads
    val/<fine>/*             optional; without it the test images are cut 50/50
    test/<fine>/*

Images are made square: shorter side to the image size, then the centre. Without an image size it is the shorter side
of the first training image, at most 224. Hidden files are passed over; anything else that is no image is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laresa.data import pictures
from laresa.data.cache import PARTS, Source, stamp
from laresa.errors import DataError, nearest
from laresa.taxonomy import Taxonomy

log = logging.getLogger(__name__)

LARGEST_DEFAULT = 224
TAXONOMY = "taxonomy.json"


def source(root: Path, *, skip_bad: bool = False) -> Source:
    """The folder as a Source; file names are read, images are not.

    skip_bad: leave images out that don't decode, each with a warning, instead of raising DataError.
    The stamp that decides whether the decoded copy is current is made of paths, sizes and modification times.
    """
    tree = _taxonomy(root)
    files = {part: _files(root / part, tree) for part in PARTS if part != "val" or (root / part).is_dir()}
    trained = {label for _, label in files["train"]}
    missing = [name for i, name in enumerate(tree.names) if i not in trained]
    if missing:
        listed = ", ".join(map(repr, missing[:8]))
        raise DataError(f"{root / 'train'} has no image of {len(missing)} classes: {listed}")

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8] | None]:
        for path, _ in files.get(part, ()):
            try:
                yield pictures.read(path, size)
            except DataError as error:
                if not skip_bad:
                    raise DataError(f"{error}; mend or remove the file") from error
                log.warning("left out: %s", error)
                yield None

    everything = [path for part in files.values() for path, _ in part]
    everything += [path for path in (root / TAXONOMY,) if path.is_file()]
    return Source(
        name=root.resolve().name,
        taxonomy=tree,
        labels={part: np.array([label for _, label in pairs], dtype=np.int64) for part, pairs in files.items()},
        images=images,
        stamp=stamp(everything, root) + (" without bad images" if skip_bad else ""),
        size=min(LARGEST_DEFAULT, pictures.shorter_side(files["train"][0][0])),
    )


def _taxonomy(root: Path) -> Taxonomy:
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    if (root / TAXONOMY).is_file():
        return Taxonomy.from_json(root / TAXONOMY)
    folders = [entry.name for entry in _visible(_there(root / "train")) if entry.is_dir()]
    if not folders:
        raise DataError(f"{root / 'train'} holds no folder of a class: expected train/<class>/<image>")
    return Taxonomy.from_names(folders)


def _files(folder: Path, tree: Taxonomy) -> list[tuple[Path, int]]:
    """(path, label), by class and then by name."""
    _there(folder)
    index = {name: i for i, name in enumerate(tree.names)}
    found: list[tuple[Path, int]] = []
    for entry in _visible(folder):
        if not entry.is_dir():
            raise DataError(f"{entry} is no folder of a class: expected {folder.name}/<class>/<image>")
        if entry.name not in index:
            where = TAXONOMY if (folder.parent / TAXONOMY).is_file() else "train"
            raise DataError(f"{entry}: the class {entry.name!r} is not in {where}{nearest(entry.name, index)}")
        for path in _visible(entry):
            if not path.is_file():
                raise DataError(f"{path} is no image file: classes hold images only, no folders")
            found.append((path, index[entry.name]))
    if not found:
        raise DataError(f"{folder} holds no image: an empty {folder.name} split")
    return sorted(found, key=lambda pair: (pair[1], pair[0].name))


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: expected {folder.name}/<class>/<image>")
    return folder


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))

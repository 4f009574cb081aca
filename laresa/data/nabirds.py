"""NABirds (Van Horn et al., CVPR 2015): 48,562 photographs of 555 kinds of birds of North America.

A kind is a species, or one of its plumages ("Northern Cardinal (Adult Male)"). hierarchy.txt is the tree above them,
1011 nodes with its root, the kinds three or four steps down. Photographs are cut as CUB-200's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laresa.data import pictures, tree
from laresa.data.cache import Source, fetched, stamp
from laresa.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from laresa.data.known import About, find, pairs
from laresa.errors import DataError
from laresa.taxonomy import Taxonomy

ABOUT = About(
    name="nabirds",
    folders=("nabirds",),
    marker="hierarchy.txt",
    url="https://dl.allaboutbirds.org/nabirds",
    licence="Cornell Lab's terms of use: non-commercial research and education",
    classes=555,
    images=48_562,
)
TABLES = ("classes", "hierarchy", "images", "image_class_labels", "train_test_split")
TRAINS = {"1": "train", "0": "test"}


def source(root: Path | None = None) -> Source:
    """Raises DataError if the files aren't there, a line doesn't parse, they don't fit each other, or make no tree."""
    folder = find(ABOUT, root)
    tables = {name: pairs(folder / f"{name}.txt") for name in TABLES if name != "hierarchy"}
    tables["hierarchy"] = pairs(folder / "hierarchy.txt", twice="has two parents")
    kinds = sorted(set(tables["image_class_labels"].values()), key=lambda node: (len(node), node))
    taxonomy = _taxonomy(folder, kinds, tables)
    index = {kind: i for i, kind in enumerate(kinds)}
    parts: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for image, path in tables["images"].items():
        try:
            kind, split = tables["image_class_labels"][image], tables["train_test_split"][image]
        except KeyError as error:
            raise DataError(f"{folder}: image {image} has no class or no split (looked up {error})") from error
        if split not in TRAINS:
            raise DataError(f"{folder / 'train_test_split.txt'}: image {image} has {split!r}: expected 1 (train) or 0")
        parts[TRAINS[split]].append((folder / "images" / path, index[kind]))

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for path, _ in parts.get(part, ()):
            yield pictures.read(path, size, margin=8 / 7)

    return Source(
        name=ABOUT.name,
        taxonomy=taxonomy,
        labels={part: np.array([label for _, label in found], dtype=np.int64) for part, found in parts.items()},
        images=images,
        stamp=stamp([*(folder / f"{name}.txt" for name in TABLES), folder / "images"], folder),
        size=224,
        normalisation=(IMAGENET_MEAN, IMAGENET_STD),
    )


def _taxonomy(folder: Path, kinds: list[str], tables: dict[str, dict[str, str]]) -> Taxonomy:
    names, parent = tables["classes"], tables["hierarchy"]
    inner = set(parent.values())
    bare = [node for node in names if node not in inner and node not in set(kinds)]
    notes = (
        (f"{len(bare)} leaves of the tree have no image and are no classes, {names[bare[0]]!r} first",) if bare else ()
    )
    try:
        made = tree.from_parents(kinds, parent, names, notes=notes)
    except DataError as error:
        raise DataError(f"{folder / 'hierarchy.txt'}, {folder / 'classes.txt'}: {error}") from error
    tops = [name for name, above in zip(made.node_names, made.parents, strict=True) if above < 0]
    if len(tops) > 1:
        raise DataError(f"{folder / 'hierarchy.txt'}: expected one root, found {len(tops)}: {', '.join(tops[:8])}")
    return made


DATASETS = {"nabirds": fetched(source)}

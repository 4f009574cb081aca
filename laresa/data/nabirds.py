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
from laresa.data.known import About, Remote, find, pairs, same_keys
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
    size=224,
    files=(
        Remote(
            url=None,
            kind="tar.gz",
            checksum=None,
            size=9_300_000_000,
            unpacked=10_000_000_000,
        ),
    ),
)
PER_IMAGE = ("images", "image_class_labels", "train_test_split")
TRAINS = {"1": "train", "0": "test"}


def source(root: Path | None = None) -> Source:
    """Raises DataError if the files aren't there, a line doesn't parse, they don't fit each other, or make no tree."""
    folder = find(ABOUT, root)
    files = {name: folder / f"{name}.txt" for name in ("classes", "hierarchy", *PER_IMAGE)}
    names = pairs(files["classes"])
    parent = pairs(files["hierarchy"], among=names, twice="has two parents")
    paths = pairs(files["images"])
    kind_of = pairs(files["image_class_labels"], among=names)
    trains = pairs(files["train_test_split"], among=TRAINS)
    same_keys({files[name]: table for name, table in zip(PER_IMAGE, (paths, kind_of, trains), strict=True)})

    kinds = sorted(set(kind_of.values()), key=lambda node: (len(node), node))
    try:
        taxonomy = _taxonomy(kinds, parent, names)
    except DataError as error:
        raise DataError(f"{files['hierarchy']}: {error}") from error
    index = {kind: i for i, kind in enumerate(kinds)}
    parts: dict[str, list[tuple[Path, int]]] = {part: [] for part in TRAINS.values()}
    for image, path in paths.items():
        parts[TRAINS[trains[image]]].append((folder / "images" / path, index[kind_of[image]]))

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for path, _ in parts.get(part, ()):
            yield pictures.read(path, size, margin=8 / 7)

    return Source(
        name=ABOUT.name,
        taxonomy=taxonomy,
        labels={part: np.array([label for _, label in found], dtype=np.int64) for part, found in parts.items()},
        images=images,
        stamp=stamp([*files.values(), folder / "images"], folder),
        size=ABOUT.size,
        normalisation=(IMAGENET_MEAN, IMAGENET_STD),
    )


def _taxonomy(kinds: list[str], parent: dict[str, str], names: dict[str, str]) -> Taxonomy:
    bare = [names[node] for node in names.keys() - {*parent.values(), *kinds}]
    notes = (f"{len(bare)} leaves of the tree have no image and are no classes, {min(bare)!r} first",) if bare else ()
    made = tree.from_parents(kinds, parent, names, notes=notes)
    tops = [name for name, above in zip(made.node_names, made.parents, strict=True) if above < 0]
    if len(tops) > 1:
        raise DataError(f"expected one root, found {len(tops)}: {', '.join(tops[:8])}")
    return made


DATASETS = {"nabirds": fetched(source)}

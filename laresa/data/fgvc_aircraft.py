"""FGVC-Aircraft (Maji et al., 2013, https://arxiv.org/abs/1306.5151), release 2013b: 10,000 photographs of aircraft.

A tree of four levels: 100 variants (the classes), 70 families, 30 manufacturers, a root. It comes from the images' own
labels; classes are in the order of their names. Where a family is called like a variant in it ("Spitfire"), "group"
tells it from that. Training, validation and test images are the authors', a third each, so there is one fold.

The lowest 20 rows of every photograph hold its copyright notice, which the authors ask to crop: it names the
photographer, and one photographer's aircraft are often alike. What remains is cut as CUB-200's: shorter side to 8/7 of
the image size, then the centre.
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
    name="fgvc_aircraft",
    folders=("fgvc-aircraft-2013b/data", "data"),
    marker="images_variant_train.txt",
    url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
    licence="non-commercial research",
    classes=100,
    images=10_000,
)
LEVELS = {"variant": 100, "family": 70, "manufacturer": 30}  # and how many there are
BANNER = 20  # rows of the copyright notice


def source(root: Path | None = None) -> Source:
    """Raises DataError if the files aren't there, a line doesn't parse, or the labels make no tree."""
    folder = find(ABOUT, root)
    parts = ("train", "val", "test")
    labels = {part: {level: pairs(folder / f"images_{level}_{part}.txt") for level in LEVELS} for part in parts}
    taxonomy = _taxonomy(folder, labels)
    index = {name: i for i, name in enumerate(taxonomy.names)}

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for image in labels[part]["variant"] if part in labels else ():
            yield pictures.read(folder / "images" / f"{image}.jpg", size, margin=8 / 7, banner=BANNER)

    seen = [folder / f"images_{level}_{part}.txt" for level in LEVELS for part in labels]
    return Source(
        name=ABOUT.name,
        taxonomy=taxonomy,
        labels={p: np.array([index[v] for v in labels[p]["variant"].values()], dtype=np.int64) for p in labels},
        images=images,
        stamp=stamp([*seen, folder / "images"], folder),
        size=224,
        normalisation=(IMAGENET_MEAN, IMAGENET_STD),
    )


def _taxonomy(folder: Path, labels: dict[str, dict[str, dict[str, str]]]) -> Taxonomy:
    """The tree that the three labels of every image make."""
    parent: dict[str, str] = {}
    spoken = {"root": "aircraft"}
    for part, of_level in labels.items():
        for image in of_level["variant"]:
            path = []
            for level, found in of_level.items():
                if image not in found:
                    raise DataError(f"{folder / f'images_{level}_{part}.txt'} has no line of image {image}")
                path.append(f"{level} {found[image]}")
                spoken[path[-1]] = found[image]
            for node, above in zip(path, [*path[1:], "root"], strict=True):
                if parent.setdefault(node, above) != above:
                    raise DataError(f"{folder}: {node} has two parents, {parent[node]} and, of image {image}, {above}")
    nodes = {level: sorted(node for node in spoken if node.startswith(f"{level} ")) for level in LEVELS}
    missing = [
        f"{len(nodes[level])} {level} of {count}" for level, count in LEVELS.items() if len(nodes[level]) < count
    ]
    notes = (f"not the whole data set: its labels name {', '.join(missing)}",) if missing else ()
    return tree.from_parents(nodes["variant"], parent, spoken, notes=notes)


DATASETS = {"fgvc_aircraft": fetched(source, own_val=True)}

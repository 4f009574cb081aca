"""FGVC-Aircraft (Maji et al., 2013, https://arxiv.org/abs/1306.5151), release 2013b: 10,000 photographs of aircraft.

A tree of four levels: 100 variants (the classes, in the order of variants.txt), 70 families, 30 manufacturers, a root.
What lies in what, the images' own labels say. Where a family is called like a variant in it ("Spitfire"), "group" tells
it from that. Training, validation and test images are the authors', a third each, so there is one fold.

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
from laresa.data.known import About, Remote, find, lines, pairs, same_keys
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
    size=224,
    files=(
        Remote(
            url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            kind="tar.gz",
            checksum="md5:d4acdd33327262359767eeaa97a4f732",
            size=2_753_340_328,
            unpacked=2_900_000_000,
        ),
    ),
)
LEVELS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}  # and their names
PARTS = ("train", "val", "test")
BANNER = 20  # rows of the copyright notice

Labels = dict[str, dict[str, str]]  # level -> image -> name


def source(root: Path | None = None) -> Source:
    """Raises DataError if the files aren't there, a line doesn't parse, or the labels make no tree."""
    folder = find(ABOUT, root)
    names = {level: [row[0].strip() for row in lines(folder / listed, "\n")] for level, listed in LEVELS.items()}
    labels: dict[str, Labels] = {}
    for part in PARTS:
        files = {level: _file(folder, level, part) for level in LEVELS}
        labels[part] = {level: pairs(path, among=names[level]) for level, path in files.items()}
        same_keys({path: labels[part][level] for level, path in files.items()})
    taxonomy = _taxonomy(folder, names, labels)
    index = {name: i for i, name in enumerate(names["variant"])}

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for image in labels[part]["variant"]:
            yield pictures.read(folder / "images" / f"{image}.jpg", size, margin=8 / 7, banner=BANNER)

    seen = [_file(folder, level, part) for level in LEVELS for part in PARTS]
    return Source(
        name=ABOUT.name,
        taxonomy=taxonomy,
        labels={p: np.array([index[v] for v in labels[p]["variant"].values()], dtype=np.int64) for p in labels},
        images=images,
        stamp=stamp([*seen, *(folder / listed for listed in LEVELS.values()), folder / "images"], folder),
        size=ABOUT.size,
        normalisation=(IMAGENET_MEAN, IMAGENET_STD),
    )


def _file(folder: Path, level: str, part: str) -> Path:
    return folder / f"images_{level}_{part}.txt"


def _taxonomy(folder: Path, names: dict[str, list[str]], labels: dict[str, Labels]) -> Taxonomy:
    """The tree that the three labels of every image make."""
    parent: dict[str, str] = {}
    for part, of_level in labels.items():
        for image in of_level["variant"]:
            path = [f"{level} {found[image]}" for level, found in of_level.items()]
            for level, node, above in zip(LEVELS, path, [*path[1:], "root"], strict=True):
                if parent.setdefault(node, above) != above:
                    raise DataError(
                        f"{_file(folder, level, part)}, image {image}: {node!r} has two parents, {parent[node]!r} and "
                        f"{above!r}"
                    )
    spoken = {f"{level} {name}": name for level, listed in names.items() for name in listed} | {"root": "aircraft"}
    try:
        return tree.from_parents([f"variant {name}" for name in names["variant"]], parent, spoken)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error


DATASETS = {"fgvc_aircraft": fetched(source, own_val=True)}

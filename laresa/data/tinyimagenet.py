"""TinyImageNet (Stanford CS231n): 200 classes of 500 images of 64 pixels; wnids.txt, words.txt, train/, val/.

The folder test/ has no labels, so the 10,000 images of val/ are the "provided test split" that is cut 50/50.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laresa.data import pictures
from laresa.data.cache import Source, fetched, stamp
from laresa.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from laresa.data.known import About, Remote, find, lines, plain
from laresa.errors import DataError, nearest
from laresa.taxonomy import shipped, shipped_json

ABOUT = About(
    name="tinyimagenet",
    folders=("tiny-imagenet-200",),
    marker="wnids.txt",
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    licence="ImageNet's terms: non-commercial research and education",
    classes=200,
    images=110_000,
    size=64,
    files=(
        Remote(
            url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            kind="zip",
            checksum="md5:90528d7ca1a48142e341f4ef8d21d0de",
            size=248_100_043,
            unpacked=600_000_000,
        ),
    ),
)


def source(root: Path | None = None) -> Source:
    """Raises DataError if the files aren't there or their classes aren't those of the shipped taxonomy."""
    folder = find(ABOUT, root)
    index = {wnid: i for i, wnid in enumerate(_wnids(folder))}
    train = [
        (path, label)
        for wnid, label in index.items()
        for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]
    test = []
    for file_name, wnid, *_ in lines(folder / "val" / "val_annotations.txt", "\t"):
        if wnid not in index:
            raise DataError(f"{folder / 'val' / 'val_annotations.txt'}: unknown class {wnid!r}{nearest(wnid, index)}")
        test.append((folder / "val" / "images" / file_name, index[wnid]))
    pairs = {"train": train, "test": test}

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for path, _ in pairs.get(part, ()):
            yield pictures.read(path, size)

    # A look at 110,000 files would cost every trial seconds: the folders' times change when files come or go.
    seen = [
        folder / "wnids.txt",
        folder / "words.txt",
        folder / "val" / "val_annotations.txt",
        folder / "val" / "images",
    ]
    return Source(
        name=ABOUT.name,
        taxonomy=shipped("tinyimagenet"),
        labels={part: np.array([label for _, label in found], dtype=np.int64) for part, found in pairs.items()},
        images=images,
        stamp=stamp([*seen, *(folder / "train" / wnid / "images" for wnid in index)], folder),
        size=ABOUT.size,
        normalisation=(IMAGENET_MEAN, IMAGENET_STD),
    )


def _wnids(folder: Path) -> list[str]:
    """The 200 WordNet ids in class order, after a look whether words.txt calls them what the taxonomy calls them."""
    fields = shipped_json("tinyimagenet")
    wnids: list[str] = fields["wnids"]
    differ = set(wnids) ^ {row[0] for row in lines(folder / "wnids.txt", "\t")}
    if differ:
        raise DataError(f"{folder / 'wnids.txt'} is not TinyImageNet's list of 200: {sorted(differ)[:8]} differ")
    words = {row[0]: [plain(word) for word in row[1].split(", ")] for row in lines(folder / "words.txt", "\t")}
    for wnid, name in zip(wnids, fields["classes"], strict=True):
        if plain(name) not in words.get(wnid, ()):
            raise DataError(f"{folder / 'words.txt'}: {wnid} is not called {name!r}, as the shipped taxonomy has it")
    return wnids


DATASETS = {"tinyimagenet": fetched(source)}

"""Fashion-MNIST (Xiao et al., 2017, https://arxiv.org/abs/1708.07747): 70,000 grey images of clothes, 28 pixels.

Four gzipped idx files; no pixel is lost: grey becomes three equal channels. The authors give no tree: the groups above
the ten classes are ours, by where a thing is worn.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laresa.data.cache import Source, fetched, stamp
from laresa.data.dataset import resize
from laresa.data.known import About, Remote, find
from laresa.errors import DataError
from laresa.taxonomy import Taxonomy

HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FILES = {"train": "train-{}-ubyte.gz", "test": "t10k-{}-ubyte.gz"}  # of images and of labels
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
GROUPS = {
    "top": ("T-shirt/top", "Pullover", "Shirt"),
    "outer garment": ("Coat", "Dress"),
    "legwear": ("Trouser",),
    "footwear": ("Sandal", "Sneaker", "Ankle boot"),
    "accessory": ("Bag",),
}
NOTE = "the groups above Fashion-MNIST's classes are ours, by where a thing is worn: its authors give none"
SIDE = 28
MOST = 1_000_000  # images that a file may speak of: a torn header must not ask for all the memory


def _remote(name: str, md5: str, size: int) -> Remote:
    return Remote(f"{HOST}/{name}", "file", f"md5:{md5}", size, size)


ABOUT = About(
    name="fashion_mnist",
    folders=("FashionMNIST/raw", "fashion-mnist"),  # the first is torchvision's
    marker="train-images-idx3-ubyte.gz",
    url="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    classes=10,
    images=70_000,
    size=SIDE,
    files=(
        _remote("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        _remote("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
        _remote("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        _remote("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    ),
)


def source(root: Path | None = None) -> Source:
    """Raises DataError, with the file's name, if one isn't there, isn't in the idx format, or they don't fit."""
    folder = find(ABOUT, root)
    images_of = {part: folder / name.format("images-idx3") for part, name in FILES.items()}
    labels_of = {part: folder / name.format("labels-idx1") for part, name in FILES.items()}
    labels = {part: _labels(labels_of[part], images_of[part]) for part in FILES}

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for grey in _idx(images_of[part], (SIDE, SIDE)) if part in labels else ():
            yield resize(np.repeat(grey[None, None], 3, axis=1), size)[0]

    return Source(
        name=ABOUT.name,
        taxonomy=Taxonomy.from_groups(GROUPS, classes=CLASSES, notes=(NOTE,)),
        labels=labels,
        images=images,
        stamp=stamp([*images_of.values(), *labels_of.values()], folder),
        size=ABOUT.size,
    )


def _labels(path: Path, images: Path) -> NDArray[np.int64]:
    """int64 [N], one for each image of `images`, all of them classes."""
    labels = _idx(path, ())
    with _opened(images) as file:
        count = _count(file, images, (SIDE, SIDE))
    if len(labels) != count:
        raise DataError(f"{path} has {len(labels):,} labels, {images.name} {count:,} images: expected one each")
    if labels.max() >= len(CLASSES):
        at = int(labels.argmax())
        raise DataError(f"{path}: label {at} is {labels[at]}: expected 0 to {len(CLASSES) - 1}")
    return labels.astype(np.int64)


def _idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """uint8 [N, *shape]. DataError: the file can't be read, is of something else, or of more or less bytes."""
    with _opened(path) as file:
        count = _count(file, path, shape)
        size = count * math.prod(shape)
        body = file.read(size + 1)
    if len(body) != size:
        there = "more" if len(body) > size else f"{len(body):,}"
        raise DataError(f"{path}: its header says {size:,} bytes, and it holds {there}")
    return np.frombuffer(body, dtype=np.uint8).reshape(count, *shape)


def _count(file: gzip.GzipFile, path: Path, shape: tuple[int, ...]) -> int:
    """How many entries of `shape` the file holds, as its header says; what follows is the entries."""
    rank = 1 + len(shape)
    head = file.read(4 + 4 * rank)
    if len(head) < 4 + 4 * rank:
        raise DataError(f"{path} is cut off: {len(head)} bytes, less than an idx header has")
    magic, count, *found = struct.unpack(f">{1 + rank}I", head)
    if magic != 0x0800 + rank:  # 08: bytes, then the number of dimensions
        raise DataError(f"{path} is no idx file of bytes in {rank} dimensions: it begins with {magic:#010x}")
    if tuple(found) != shape:
        raise DataError(f"{path} holds images of {found} pixels: expected {list(shape)}")
    if not 0 < count <= MOST:
        raise DataError(f"{path}: its header says {count:,} entries: expected 1 to {MOST:,}")
    return int(count)


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile]:
    try:
        with gzip.open(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read as a gzipped idx file: {error}") from error


DATASETS = {"fashion_mnist": fetched(source)}

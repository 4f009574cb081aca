"""CIFAR-100 (Krizhevsky, 2009): 60,000 images of 32 pixels in its python version, files train, test and meta.

The paper names no normalisation (ToTensor alone); ours is by the mean and deviation of the training images.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laresa.data.cache import Source, fetched, stamp
from laresa.data.dataset import resize
from laresa.data.known import About, Remote, find, plain
from laresa.errors import DataError
from laresa.taxonomy import Taxonomy, shipped

ABOUT = About(
    name="cifar100",
    folders=("cifar-100-python",),
    marker="train",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    licence="none stated by the authors",
    classes=100,
    images=60_000,
    size=32,
    files=(
        Remote(
            url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            kind="tar.gz",
            checksum="md5:eb9058c3a382ffc7106e4002c42a8d85",
            size=169_001_437,
            unpacked=187_000_000,
        ),
    ),
)


def source(root: Path | None = None) -> Source:
    """Raises DataError if the files aren't there, aren't CIFAR-100, or their coarse labels aren't the tree's."""
    folder = find(ABOUT, root)
    tree = shipped("cifar100")
    names = [str(name) for name in _read(folder / "meta")["fine_label_names"]]
    if tuple(names) != tree.names:
        raise DataError(f"{folder / 'meta'}: the class names are not CIFAR-100's")
    labels = {part: _labels(folder, part, tree) for part in ("train", "test")}

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for pixels in _read(folder / part)["data"] if part in labels else ():
            yield resize(pixels.reshape(1, 3, 32, 32), size)[0]

    return Source(
        name=ABOUT.name,
        taxonomy=tree,
        labels=labels,
        images=images,
        stamp=stamp([folder / name for name in ("train", "test", "meta")], folder),
        size=ABOUT.size,
    )


def _labels(folder: Path, part: str, tree: Taxonomy) -> NDArray[np.int64]:
    """The fine labels, after a look whether each image's coarse label is its class's parent in the tree."""
    fields = _read(folder / part)
    try:
        fine, coarse = (np.array(fields[key], dtype=np.int64) for key in ("fine_labels", "coarse_labels"))
        fits = fields["data"].shape == (len(fine), 3072) and fields["data"].dtype == np.uint8
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{folder / part} is not in CIFAR-100's format ({error})") from error
    if not fits or len(coarse) != len(fine):
        raise DataError(f"{folder / part} is not in CIFAR-100's format")
    known = len(_read(folder / "meta")["coarse_label_names"])
    for key, labels, count in (("fine_labels", fine, len(tree.names)), ("coarse_labels", coarse, known)):
        if bad := np.flatnonzero((labels < 0) | (labels >= count)).tolist():
            raise DataError(
                f"{folder / part}: {key} of image {bad[0]} is {labels[bad[0]]}: expected 0 to {count - 1}"
                + (f" ({len(bad)} such images)" if len(bad) > 1 else "")
            )
    in_file = [plain(str(name)) for name in _read(folder / "meta")["coarse_label_names"]]
    in_tree = [plain(tree.coarse_names[k]) for k in tree.parent_C]
    wrong = {tree.names[f]: in_file[c] for f, c in zip(fine, coarse, strict=True) if in_tree[f] != in_file[c]}
    if wrong:
        raise DataError(f"{folder / part}: coarse labels differ from the shipped taxonomy for {wrong}")
    return fine


@lru_cache(maxsize=3)
def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            # latin1 maps bytes to characters one to one: how numpy reads the arrays that Python 2 pickled.
            fields: dict[str, Any] = _ArraysOnly(file, encoding="latin1").load()
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path} can't be read as CIFAR-100: {error}") from error
    return fields


class _ArraysOnly(pickle.Unpickler):
    """A pickle can call any function; a file from the network may only build numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}, which no data set needs: don't trust it")


DATASETS = {"cifar100": fetched(source)}

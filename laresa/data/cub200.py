"""CUB-200-2011 (Wah et al., 2011): 11,788 photographs of 200 species of birds; images.txt and its sisters, images/.

The paper names CenterCrop(224) alone. Cut from photographs of some 500 x 375 pixels that would lose much of many birds,
so the shorter side is first made 256 pixels (8/7 of the image size), as is usual for networks of 224 pixels;
cub200.resize=0 takes the paper at its word.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from laresa.data import pictures
from laresa.data.cache import Source, open_prepared, prepare, stamp
from laresa.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, DataSource
from laresa.data.known import About, Remote, find, lines
from laresa.errors import DataError
from laresa.fields import Doc
from laresa.taxonomy import shipped

ABOUT = About(
    name="cub200",
    folders=("CUB_200_2011",),
    marker="images.txt",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    licence="non-commercial research and education",
    classes=200,
    images=11_788,
    size=224,
    files=(
        Remote(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            kind="tar.gz",
            checksum="md5:97eceeb196236b17998738112f37df78",
            size=1_150_585_339,
            unpacked=1_300_000_000,
        ),
    ),
)
MARGIN = 8 / 7
TABLES = ("classes", "images", "image_class_labels", "train_test_split")


def source(root: Path | None = None, margin: float = MARGIN) -> Source:
    """margin: as of pictures.read.

    Raises DataError if the files aren't there, don't fit each other, or the classes aren't CUB-200-2011's.
    """
    folder = find(ABOUT, root)
    tables = {name: {row[0]: row[1] for row in lines(folder / f"{name}.txt", " ")} for name in TABLES}
    tree = shipped("cub200")
    # "001.Black_footed_Albatross" -> "Black-footed-Albatross", as the paper writes it
    names = {number: name.split(".", 1)[-1].replace("_", "-") for number, name in tables["classes"].items()}
    if tuple(names.values()) != tree.names:
        raise DataError(f"{folder / 'classes.txt'}: the class names are not those of CUB-200-2011, in its order")
    index = {number: i for i, number in enumerate(names)}
    pairs: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for number, path in tables["images"].items():
        try:
            label, trains = index[tables["image_class_labels"][number]], tables["train_test_split"][number]
        except KeyError as error:
            raise DataError(f"{folder}: image {number} has no class or no split (looked up {error})") from error
        pairs["train" if trains == "1" else "test"].append((folder / "images" / path, label))

    def images(part: str, size: int) -> Iterator[NDArray[np.uint8]]:
        for path, _ in pairs.get(part, ()):
            yield pictures.read(path, size, margin=margin)

    seen = stamp([*(folder / f"{name}.txt" for name in TABLES), folder / "images"], folder)
    return Source(
        name=ABOUT.name,
        taxonomy=tree,
        labels={part: np.array([label for _, label in found], dtype=np.int64) for part, found in pairs.items()},
        images=images,
        stamp=seen if margin == MARGIN else f"{seen} {margin:g}",
        size=ABOUT.size,
        normalisation=(IMAGENET_MEAN, IMAGENET_STD),
    )


def load(
    fold: int,
    split_seed: int,
    image_size: int | None,
    *,
    resize: Annotated[
        float,
        Ge(0),
        Le(4),
        Doc("shorter side before the centre is cut, in image sizes; 0: the photograph as it is"),
    ] = MARGIN,
) -> Dataset:
    """One fold."""
    found = source(None, resize)
    return open_prepared(found, prepare(found, image_size), fold=fold, split_seed=split_seed)


DATASETS = {"cub200": DataSource(load, 2, source)}

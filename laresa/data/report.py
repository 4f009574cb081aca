"""What `laresa data list` and `laresa data check` print: which data sets there are, and whether one is sound."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laresa import data
from laresa.data import cifar100, cub200, emoji120, fashion_mnist, fgvc_aircraft, icons158, nabirds, texts, tinyimagenet
from laresa.data.dataset import Dataset, Split
from laresa.data.known import About, places
from laresa.errors import ConfigError, DataError, nearest

FETCHED = (cifar100.ABOUT, cub200.ABOUT, tinyimagenet.ABOUT, fgvc_aircraft.ABOUT, nabirds.ABOUT, fashion_mnist.ABOUT)


def about(name: str) -> About:
    """What is known of a data set that is fetched. ConfigError: there is none of that name to fetch."""
    found = {known.name: known for known in FETCHED}
    if name in found:
        return found[name]
    if name in data.names():
        raise ConfigError(f"{name} needs no fetching: it comes with laresa or with a plugin")
    raise ConfigError(f"unknown data set {name!r}{nearest(name, found)}")


def describe(root: str | Path | None = None) -> list[dict[str, Any]]:
    """One record a data set that has a name: name, origin, present, classes, images, folds, licence. Opens no image.

    root: where the data sets that aren't embedded are looked for, as in `laresa.data.load`.
    """
    embedded = [
        {
            "name": name,
            "origin": "in this package",
            "present": True,
            "classes": module.taxonomy().leaves,
            "images": module.image_count(),
            "folds": module.folds(),
            "licence": f"{licence} (see NOTICE)",
        }
        for name, module, licence in (
            ("emoji120", emoji120, "Apache-2.0, MIT, CC-BY-4.0"),
            ("icons158", icons158, "MIT, Apache-2.0, CC-BY-4.0 and others as free"),
        )
    ]
    fetched = [
        {
            "name": about.name,
            "origin": about.url,
            "present": any((place / about.marker).is_file() for place in places(about, root)),
            "classes": about.classes,
            "images": about.images,
            "folds": data.folds(about.name),
            "licence": about.licence,
        }
        for about in FETCHED
    ]
    return [*embedded, *fetched]


@dataclass(frozen=True)
class Found:
    """A sentence each. findings: what is wrong or worth knowing. remarks: what the texts are like; no fault."""

    findings: list[str]
    remarks: list[str]


def check(name: str, *, root: str | Path | None = None, image_size: int | None = None) -> list[str]:
    """What is wrong or worth knowing, one sentence each; empty if there is nothing. Decodes every image.

    What `load` refuses comes back as the only sentence. Else: the taxonomy's notes, classes missing from the validation
    or test split, uneven numbers of training images, groups of one class, images that stand in two splits, classes
    whose texts are equal.
    """
    return examine(name, root=root, image_size=image_size, judge=False).findings


def examine(name: str, *, root: str | Path | None = None, image_size: int | None = None, judge: bool = True) -> Found:
    """As `check`, and with it what the texts are like, where an encoder is here; judge: whether it is asked."""
    try:
        dataset = data.load(name, root=root, image_size=image_size)
    except DataError as error:
        return Found([str(error)], [])
    findings = [
        *dataset.taxonomy.notes,
        *_coverage(dataset),
        *_balance(dataset),
        *_lonely_groups(dataset),
        *_leaks(dataset),
        *texts.equal_texts(dataset.taxonomy),
    ]
    return Found(findings, texts.remarks(dataset.taxonomy) if judge else [])


def _coverage(dataset: Dataset) -> list[str]:
    findings = []
    for part, split in (("train", dataset.train), ("validation", dataset.val), ("test", dataset.test)):
        absent = [dataset.taxonomy.names[i] for i in np.flatnonzero(_counts(dataset, split) == 0)]
        if absent:
            findings.append(f"{len(absent)} classes have no {part} image ({dataset.fold_note}): {_some(absent)}")
    return findings


def _balance(dataset: Dataset) -> list[str]:
    counts = _counts(dataset, dataset.train)
    if counts.max() < 10 * max(counts.min(), 1):
        return []
    most, least = dataset.taxonomy.names[counts.argmax()], dataset.taxonomy.names[counts.argmin()]
    return [f"training images a class differ widely: {counts.min()} of {least!r}, {counts.max()} of {most!r}"]


def _lonely_groups(dataset: Dataset) -> list[str]:
    tree = dataset.taxonomy
    if tree.flat:
        return ["no tree over the classes: terms and metrics that need one (anchor, hace, nn_hit, ...) can't be had"]
    sizes = np.bincount(tree.parent_C, minlength=len(tree.coarse_names))
    lonely = [tree.coarse_names[k] for k in np.flatnonzero(sizes == 1)]
    return [f"{len(lonely)} groups hold one class only: {_some(lonely)}"] if lonely else []


def _leaks(dataset: Dataset) -> list[str]:
    """Equal pixels in two splits: what is learned by heart would count as recognised."""
    seen: dict[bytes, str] = {}
    twice: dict[tuple[str, str], int] = {}
    for part, split in (("train", dataset.train), ("validation", dataset.val), ("test", dataset.test)):
        for image in split.images.numpy():
            first = seen.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), part)
            if first != part:
                twice[first, part] = twice.get((first, part), 0) + 1
    return [f"{n} {part} images have the very pixels of a {first} image" for (first, part), n in twice.items()]


def _counts(dataset: Dataset, split: Split) -> NDArray[np.int64]:
    return np.bincount(split.labels.numpy(), minlength=dataset.taxonomy.leaves)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

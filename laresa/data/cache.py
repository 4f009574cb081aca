"""Decode once a node, then share: prepared data sets are .npy files that every process maps, not copies.

    <cache>/laresa/data/<name>-<key>/    key: hash of the files' names, sizes and times, the taxonomy and the size
        images.npy                       uint8 [N, 3, S, S]: train, then val where there is one, then test
        labels.npy                       int64 [N]
        meta.json                        images by part, mean, std, fingerprint, images left out
        cut-<split seed>.npy             the test images in the order of the cut: validation half, test half
        *.seal                           of each of them its size, time and sha256 as it was written

Everything appears under its name complete or not at all; two processes that start at once decode once. What is not as
its seal says is decoded anew: each process hashes a file once (some 1 s a GB); of files above HASHED bytes size and
time alone are compared.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laresa.data.dataset import Dataset, DataSource, Split, Statistics, check_fold, fingerprint, statistics
from laresa.data.seals import as_sealed, seal
from laresa.errors import DataError
from laresa.labels import cache_folder
from laresa.progress import Told
from laresa.taxonomy import Taxonomy

log = logging.getLogger(__name__)

FORMAT = 1  # of the files above, part of the key
LARGE = 10**8  # bytes above which it is said before they are written
PARTS = ("train", "val", "test")
FILES = ("images.npy", "labels.npy", "meta.json")


@dataclass(frozen=True)
class Source:
    """A data set on disk, before it is decoded.

    labels: part -> int64 [N]; "train" and "test", "val" where the data set brings one.
    images: (part, size) -> uint8 [3, size, size] each, in the order of the labels; None for one to leave out.
    stamp: changes whenever the files do. size: pixels if nobody asks for others.
    normalisation: (mean, std) to use; None: those of the training images.
    """

    name: str
    taxonomy: Taxonomy
    labels: Mapping[str, NDArray[np.int64]]
    images: Callable[[str, int], Iterable[NDArray[np.uint8] | None]]
    stamp: str
    size: int
    normalisation: tuple[Statistics, Statistics] | None = None

    @property
    def folds(self) -> int:
        """With a validation split of its own 1, else 2: the halves of the test images change places."""
        return 1 if "val" in self.labels else 2


def stamp(files: Iterable[Path], root: Path) -> str:
    """Hash of relative paths, sizes and modification times: no file is opened. DataError: one isn't there."""
    digest = hashlib.sha256()
    for path in sorted(files):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}") from error
        name = os.fsencode(path.relative_to(root))  # which may be no text
        digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def prepare(source: Source, image_size: int | None = None) -> Path:
    """The folder of the decoded data set; decodes it if that hasn't been done on this node.

    Raises DataError if an image does not decode or a part is empty, and where the cache can't be written, or has no
    room for it.
    """
    size = image_size or source.size
    identity = [FORMAT, source.stamp, size, source.taxonomy.to_dict()]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    folder = cache_folder() / "data" / f"{source.name}-{key}"
    with _writing(source.name, folder):
        if not _whole(folder):
            with _alone(folder):
                if not _whole(folder):
                    _decode(source, size, folder)
    return folder


def open_prepared(source: Source, folder: Path, *, fold: int, split_seed: int) -> Dataset:
    """One fold, its images mapped from `folder`."""
    check_fold(source.name, fold, source.folds)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    images, labels = _map(folder / "images.npy"), np.load(folder / "labels.npy")
    ends = np.cumsum([meta["counts"][part] for part in PARTS]).tolist()
    parts = {p: slice(start, end) for p, start, end in zip(PARTS, [0, *ends], ends, strict=False)}
    splits = {part: _split(images[where], labels[where]) for part, where in parts.items()}
    note = "validation images of its own"
    if "val" not in source.labels:
        order, half = cut(labels[parts["test"]], split_seed)
        with _writing(source.name, folder):
            shuffled = _cut_images(folder, images[parts["test"]], order, split_seed)
        both = [_split(shuffled[s], labels[parts["test"]][order[s]]) for s in (slice(half), slice(half, None))]
        splits["val"], splits["test"] = both if fold == 0 else both[::-1]
        note = f"test images cut 50/50 by split_seed={split_seed}" + (", halves exchanged" if fold else "")
    left_out = f", {meta['left_out']} images left out" if meta["left_out"] else ""
    return Dataset(
        name=source.name,
        taxonomy=source.taxonomy,
        **splits,
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        fold_note=f"fold {fold} of {source.folds}: {note}{left_out}",
        fingerprint=meta["fingerprint"],
    )


def fetched(source: Callable[[Path | None], Source], *, own_val: bool = False) -> DataSource:
    """A data set that is decoded into the cache: cut in two folds where it brings no validation part of its own."""

    def load(fold: int, split_seed: int, image_size: int | None) -> Dataset:
        found = source(None)
        return open_prepared(found, prepare(found, image_size), fold=fold, split_seed=split_seed)

    return DataSource(load, 1 if own_val else 2, source)


def cut(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], int]:
    """(order, half): order[:half] is one half of the images, order[half:] the other, class by class as even as can be.

    Where a class has an odd number, the halves take turns in getting the one more; inside a half the order is random.
    """
    generator = np.random.default_rng(seed)
    halves: tuple[list[int], list[int]] = ([], [])
    extra = 0
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label)).tolist()
        middle = (len(members) + extra) // 2
        extra ^= len(members) % 2
        halves[0].extend(members[:middle])
        halves[1].extend(members[middle:])
    order = np.concatenate([generator.permutation(np.array(half, dtype=np.int64)) for half in halves])
    return order, len(halves[0])


# ---------------------------------------------------------------------- decoding
def _decode(source: Source, size: int, folder: Path) -> None:
    for stale in folder.parent.glob(f"{folder.name}.*.part"):  # of a killed process: we hold the lock, nobody writes it
        shutil.rmtree(stale, ignore_errors=True)
    total = sum(len(source.labels[part]) for part in source.labels)
    needed = _check_room(source, size, total, folder.parent)
    if needed > LARGE:
        room = f"{total:,} images of {size} px, {needed / 1e9:,.1f} GB in {folder}"
        print(f"decoding {source.name} once for this node: {room}", file=sys.stderr, flush=True)
    told = Told(f"decoding {source.name}")
    if folder.exists():
        log.warning("%s is not as it was written: decoded anew", folder)
        folder.rename(Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".part", dir=folder.parent)))
    partial = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".part", dir=folder.parent))
    try:
        counts, labels = {}, []
        images = _new_map(partial / "all.npy", (total, 3, size, size))
        filled = 0
        for part in PARTS:
            before = filled
            for label, image in zip(source.labels.get(part, ()), source.images(part, size), strict=True):
                if image is not None:
                    images[filled] = image
                    labels.append(label)
                    filled += 1
                    told(filled, total)
            counts[part] = filled - before
        _check_counts(source, counts, np.array(labels))
        _finish(partial, images, filled)
        _describe(source, partial, counts, np.array(labels, dtype=np.int64), total - filled)
        for name in FILES:
            seal(partial / name)
        os.replace(partial, folder)
    finally:
        for left in folder.parent.glob(f"{folder.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)


def _check_room(source: Source, size: int, total: int, where: Path) -> int:
    """Bytes of the decoded images and of the cut's copy of the test images. DataError: the disk has no room."""
    copied = 0 if "val" in source.labels else len(source.labels["test"])
    needed, free = (total + copied) * 3 * size**2, shutil.disk_usage(where).free
    if needed > free:
        raise DataError(
            f"{source.name}: {total:,} images at image_size={size} take {needed / 1e9:,.1f} GB, of which {where} has "
            f"{free / 1e9:,.1f} free: expected a smaller image_size, or XDG_CACHE_HOME on another disk"
        )
    return needed


def _finish(partial: Path, images: NDArray[np.uint8], filled: int) -> None:
    if filled == len(images):
        images.flush()  # type: ignore[attr-defined]  # a memory map
        (partial / "all.npy").rename(partial / "images.npy")
    else:  # the header states the number of images: write it anew without those left out
        np.save(partial / "images.npy", images[:filled])
        (partial / "all.npy").unlink()


def _check_counts(source: Source, counts: Mapping[str, int], labels: NDArray[np.int64]) -> None:
    for part in source.labels:
        if not counts[part]:
            raise DataError(f"{source.name}: the {part} split has no image")
    trained = set(labels[: counts["train"]].tolist())
    missing = [name for i, name in enumerate(source.taxonomy.names) if i not in trained]
    if missing:
        raise DataError(
            f"{source.name}: no training image of {', '.join(map(repr, missing[:8]))} ({len(missing)} in all)"
        )


def _describe(
    source: Source, partial: Path, counts: Mapping[str, int], labels: NDArray[np.int64], left_out: int
) -> None:
    images = np.load(partial / "images.npy", mmap_mode="r")
    mean, std = source.normalisation or statistics(images[: counts["train"]])
    np.save(partial / "labels.npy", labels)
    meta: dict[str, Any] = {
        "counts": counts,
        "mean": mean,
        "std": std,
        "left_out": left_out,
        "fingerprint": fingerprint(images, labels, source.taxonomy.names),
    }
    (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _cut_images(folder: Path, images: NDArray[np.uint8], order: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """The test images in the order of the cut, as a file of their own: an index would copy them into every process."""
    path = folder / f"cut-{seed}.npy"
    with _alone(path):
        if not as_sealed(path):
            partial = path.with_suffix(".part")
            shuffled = _new_map(partial, images.shape)
            for start in range(0, len(order), 1024):
                shuffled[start : start + 1024] = images[order[start : start + 1024]]
            shuffled.flush()  # type: ignore[attr-defined]  # a memory map
            os.replace(partial, path)
            seal(path)
    return _map(path)


def _whole(folder: Path) -> bool:
    return all(as_sealed(folder / name) for name in FILES)


# ---------------------------------------------------------------------- files
def _map(path: Path) -> NDArray[np.uint8]:
    # "c", copy on write: pages are shared as with "r", but torch takes it without warning of a read-only array.
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="c")
    return mapped


def _new_map(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A new .npy file, mapped for writing, its room on the disk taken at once.

    Otherwise the file has holes, and a disk that fills up later kills the process (SIGBUS) instead of raising OSError.
    """
    mapped: NDArray[np.uint8] = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


def _split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


@contextmanager
def _writing(name: str, folder: Path) -> Iterator[None]:
    """What the disk refuses, as an error that a user can mend."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"can't prepare {name} in {folder}: {reason}; XDG_CACHE_HOME can name another disk") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time for `path`; a second waits, then finds the work done. A dead process holds no lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

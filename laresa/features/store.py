"""Rows of features on disk, each found by its image: append-only, checked, shared by processes. Free of torch.

    <root>/<key>/meta.json    format, identity (model, transform, type), width, hash of the weights
    <root>/<key>/rows.bin     rows end to end, in the type as kept
    <root>/<key>/index.bin    of the row at the same place: digest of its image, crc32 of the row, crc32 of this record

A row reaches the disk before its record does, so a kill leaves at most a tail that no record names; the next writer
cuts it off. What is damaged (a flipped bit, a file cut short) fails its checksum and counts as missing: it is extracted
again and appended, and of two records of an image the last intact one counts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from laresa.errors import DataError
from laresa.files import atomic_write, sync_folder

log = logging.getLogger(__name__)

FORMAT = 1
DIGEST = 16  # bytes of an image's digest
RECORD = DIGEST + 4 + 4

Rows = NDArray[Any]


class Store:
    """The rows of one network. identity: what decides them, in JSON's types; "dtype" among it is how they are kept."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, dict(identity)
        self.dtype = np.dtype(identity["dtype"]).newbyteorder("<")

    # ------------------------------------------------------------------ reading: takes no lock
    def read(self, images: Sequence[bytes]) -> tuple[Rows, list[int]]:
        """(rows, missing): a row for each image's digest, and the places of those that aren't there or are damaged."""
        meta = self._meta()
        if meta is None:
            return np.empty((len(images), 0), self.dtype), list(range(len(images)))
        known, rows = self._records(), self._map(meta["width"])
        found = np.zeros((len(images), meta["width"]), self.dtype)
        missing, damaged = [], 0
        for place, image in enumerate(images):
            for number, checksum in reversed(known.get(image, ())):
                if number < len(rows) and zlib.crc32(rows[number].tobytes()) == checksum:
                    found[place] = rows[number]
                    break
            else:
                missing.append(place)
                damaged += image in known
        if damaged:
            log.warning("%d rows of features in %s are damaged or cut off: extracting them again", damaged, self.folder)
        return found, missing

    def complete(self, missing: Sequence[int]) -> None:
        """DataError if anything is missing of what was just written."""
        if missing:
            raise DataError(
                f"features: {len(missing)} rows are not in {self.folder} though they were written: the disk does not "
                "return what it was given; delete the folder, and let XDG_CACHE_HOME name another disk"
            )

    def weights(self) -> str:
        """Hash of the weights that the rows are from."""
        meta = self._meta()
        return "" if meta is None else str(meta["weights"])

    def _meta(self) -> dict[str, Any] | None:
        """None: nothing is kept, or the file is damaged, and with it the meaning of the rows."""
        path = self.folder / "meta.json"
        try:
            meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known, _ = meta["identity"], (meta["format"], int(meta["width"]), meta["weights"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("features in %s can't be used (meta.json: %s): extracting them again", self.folder, error)
            return None
        if meta["format"] != FORMAT or known != self.identity:
            raise DataError(
                f"{self.folder} holds features of format {meta['format']}, {known}: expected {FORMAT}, "
                f"{self.identity}; delete the folder, its features are extracted again"
            )
        return meta

    def _records(self) -> dict[bytes, list[tuple[int, int]]]:
        """image -> (number of the row, its checksum), oldest first; damaged records are passed over."""
        content = self._content("index.bin")
        found: dict[bytes, list[tuple[int, int]]] = {}
        for number in range(len(content) // RECORD):
            record = content[number * RECORD : (number + 1) * RECORD]
            if zlib.crc32(record[:-4]) == int.from_bytes(record[-4:], "little"):
                row = int.from_bytes(record[DIGEST:-4], "little")
                found.setdefault(record[:DIGEST], []).append((number, row))
        return found

    def _content(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return b""

    def _map(self, width: int) -> Rows:
        path = self.folder / "rows.bin"
        count = path.stat().st_size // (width * self.dtype.itemsize) if path.exists() else 0
        if count == 0:  # an empty file can't be mapped
            return np.empty((0, width), self.dtype)
        return np.memmap(path, self.dtype, "r", shape=(count, width))

    # ------------------------------------------------------------------ writing: under the lock
    @contextmanager
    def alone(self) -> Iterator[None]:
        """One writer at a time; a second waits. A dead process holds no lock."""
        with self._mendable():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder.with_name(f".{self.folder.name}.lock"))
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def open(self, weights: str) -> None:
        """Say which weights the rows to come are from. DataError: those kept are from others."""
        meta = self._meta()
        if meta is not None and meta["weights"] != weights:
            raise DataError(
                f"features={self.identity['model']!r}: its weights are {weights[:12]}, but the features kept in "
                f"{self.folder} are from {meta['weights'][:12]}: delete the folder to extract them anew"
            )

    def append(self, images: Sequence[bytes], rows: Rows, weights: str) -> None:
        """Keep rows; when this returns they are on the disk. DataError: full or read-only; what was kept stays."""
        rows = np.ascontiguousarray(rows, self.dtype)
        with self._mendable():
            if self._meta() is None:
                self._begin(rows.shape[1], weights)
            with self._open("rows.bin") as kept, self._open("index.bin") as index:
                size = rows.shape[1] * self.dtype.itemsize
                count = min(_size(kept) // size, _size(index) // RECORD)
                records = b"".join(_record(image, row) for image, row in zip(images, rows, strict=True))
                try:
                    _extend(kept, count * size, rows.tobytes())
                    _extend(index, count * RECORD, records)
                except OSError:
                    for file, length in ((index, count * RECORD), (kept, count * size)):
                        with contextlib.suppress(OSError):
                            os.ftruncate(file, length)
                    raise

    def _begin(self, width: int, weights: str) -> None:
        for name in ("index.bin", "rows.bin"):  # of a folder whose meta.json is lost
            (self.folder / name).unlink(missing_ok=True)
        sync_folder(self.folder)  # rows of other weights may not come back beneath a new meta.json
        meta = {"format": FORMAT, "identity": self.identity, "width": width, "weights": weights}
        atomic_write(self.folder / "meta.json", json.dumps(meta))

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield file
        finally:
            os.close(file)

    @contextmanager
    def _mendable(self) -> Iterator[None]:
        """What the disk refuses, as an error that a user can mend."""
        try:
            yield
        except OSError as error:
            refused = error.__cause__ or error  # of a StorageError, what the disk said
            reason = getattr(refused, "strerror", None) or refused
            raise DataError(
                f"features can't be kept in {self.folder}: {reason}; those kept before stay good; "
                "XDG_CACHE_HOME can name another disk"
            ) from error


def _record(image: bytes, row: Rows) -> bytes:
    record = image + zlib.crc32(row.tobytes()).to_bytes(4, "little")
    return record + zlib.crc32(record).to_bytes(4, "little")


def _size(file: int) -> int:
    return os.fstat(file).st_size


def _extend(file: int, length: int, content: bytes) -> None:
    """`content` behind the first `length` bytes, on the disk."""
    os.ftruncate(file, length)
    os.lseek(file, length, os.SEEK_SET)
    left = memoryview(content)
    while left:  # a write may take a part
        left = left[os.write(file, left) :]
    os.fsync(file)

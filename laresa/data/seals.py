"""Seals of prepared files: size, time and sha256 as they were written, beside each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from laresa.files import sync_file

HASHED = 2**30  # bytes of a file up to which its content is checked
_unbroken: set[tuple[str, int, int]] = set()  # path, size and time of what this process has hashed


def seal(path: Path) -> None:
    """Of a file that is whole: from now on it is known as it is."""
    sync_file(path)  # large ones are not hashed again: after a power cut a file of the right size may hold zeros
    status = path.stat()
    made = {"size": status.st_size, "time": status.st_mtime_ns, "sha256": _sha256(path)}
    path.with_suffix(".seal").write_text(json.dumps(made), encoding="utf-8")


def as_sealed(path: Path) -> bool:
    """Whether a file is there, and is what was written."""
    try:
        seal, status = json.loads(path.with_suffix(".seal").read_bytes()), path.stat()
        size, time, digest = seal["size"], seal["time"], seal["sha256"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
    if status.st_size > HASHED:
        return bool((status.st_size, status.st_mtime_ns) == (size, time))
    known = (str(path), status.st_size, status.st_mtime_ns)
    if known not in _unbroken and status.st_size == size and _sha256(path) == digest:
        _unbroken.add(known)
    return known in _unbroken


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Writing a file so that whatever happens, a power cut included, the old one or the new one is there, whole."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from laresa.errors import StorageError

# The disk's fault, or the file system's: no trial did it, and no trial ends by it.
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG, errno.ENODEV})


def atomic_write(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write `path`: a reader sees the file as it was or as it is to be. When this returns, a power cut changes nothing.

    content: text (UTF-8), bytes, or what writes the file that it is given, which has the suffix of `path`.
    StorageError: the disk is full, or the folder not writable; a file that was there before is untouched.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    failpoint(f"write {path}")
    try:
        make_folder(path.parent)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        sync_file(temporary)
        failpoint(f"replace {path}")
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cant_write(path, error) from error


def make_folder(path: Path) -> None:
    """The folder and those above it; each new one survives a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Which names the folder has is on the disk; passed over where a file system can't."""
    with contextlib.suppress(OSError):  # some network file systems: they see to it themselves, or nobody can
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def cant_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} can't be written ({error.strerror or error}): make room or give rights there; what was written before "
        "is whole, and the same command goes on from it"
    )


def is_full(error: BaseException) -> bool:
    """Whether it is the disk that failed: full, read-only, broken, gone; or that is why `error` was raised."""
    return any(isinstance(one, OSError) and one.errno in DISK for one in (error, error.__cause__))


def sync_file(path: Path) -> None:
    """What was written to the file is on the disk."""
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# ---------------------------------------------------------------------------------------------------- places to die
FAILPOINT = "LARESA_FAILPOINT"  # FILE:K, for tests: of all processes that share FILE, the K-th passage is a death


def failpoint(what: str) -> None:
    """A place between two writes at which a process may die; tests let it."""
    if _die is not None:
        _die(what)


def _at(spec: str) -> Callable[[str], None]:
    path, _, number = spec.rpartition(":")

    def die(what: str) -> None:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, b".")  # appending is atomic: where it ended is the number of this passage
        passed = os.lseek(file, 0, os.SEEK_CUR)
        os.close(file)
        if passed == int(number):
            os.kill(os.getpid(), 9)

    return die


_die: Callable[[str], None] | None = _at(os.environ[FAILPOINT]) if FAILPOINT in os.environ else None

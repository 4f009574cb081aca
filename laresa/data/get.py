"""`laresa data get`: a known data set, downloaded, checked, unpacked and put in its place at once.

    <folder>/.NAME.part       what came of the archive so far (.NAME.FILE.part where there are several files)
    <folder>/.NAME.unpacking  the unpacked files, until they are all there
    <folder>/NAME             the data set: whole, or not there

A process that dies at any moment leaves nothing under the last name; the next run goes on from the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from laresa.data import known
from laresa.data.download import check_room, download, forget
from laresa.data.known import About, Remote
from laresa.data.unpack import unpack
from laresa.errors import DataError, LaresaError
from laresa.files import failpoint, make_folder, sync_file, sync_folder
from laresa.paths import expanded

SPARE = 2  # an archive may unpack to so many times what is expected
BLOCK = 4096  # bytes, of which a file may waste almost one: with 110,000 small images as much as they have
SINGLY = 1000  # files to sync one by one; of more, one sync of everything is faster


def get(about: About, *, to: str | Path | None = None, archive: str | Path | None = None) -> tuple[Path, bool]:
    """(the data set's folder, whether it was put there now). If it's there already, nothing is done.

    to: the folder in which data sets lie; default: $LARESA_DATA, else ~/data. archive: a file that the user has, in
    place of a download; of a data set of several files, the folder that they lie in.
    DataError: it can't be had, isn't what it should be, or there is no room. Nothing is left under its name then.
    """
    base = known.base_folder(to)
    with _told(base):
        if there := _there(about, base):
            _forget(about, base)  # what a process left that died when it had just put it there
            return there, False
        if not archive:
            _check_form(about)
        make_folder(base)
        with _alone(base / f".{about.name}.lock", about.name):
            if there := _there(about, base):  # another process has just put it there
                return there, False
            final, unpacking = base / about.name, base / f".{about.name}.unpacking"
            _check_free(about, final)
            shutil.rmtree(unpacking, ignore_errors=True)  # of a killed process: we hold the lock, nobody writes it
            try:
                files = _given(about, archive) if archive else _downloaded(about, base)
                try:
                    _unpack(about, files, unpacking)
                except DataError:
                    if not archive and about.files[0].checksum is None:  # then a torn one is only found out now
                        forget(files[0])
                    raise
                _sync(unpacking)
                failpoint(f"rename {unpacking}")
                os.rename(unpacking, final)
                sync_folder(base)
            finally:
                shutil.rmtree(unpacking, ignore_errors=True)
            failpoint(f"forget {about.name}")
            _forget(about, base)
    return known.find(about, base), True


def _there(about: About, base: Path) -> Path | None:
    with suppress(DataError):
        return known.find(about, base)
    return None


def _check_free(about: About, final: Path) -> None:
    """A folder of the data set's name that isn't the data set is the user's: it stays."""
    if final.is_symlink() or (final.exists() and not (final.is_dir() and not any(final.iterdir()))):
        raise DataError(
            f"{final} is there and holds no {about.marker}: move it away, or choose another folder with --to"
        )


# ---------------------------------------------------------------------- files
def _check_form(about: About) -> None:
    if any(remote.url is None for remote in about.files):
        raise DataError(
            f"{about.name} can't be fetched without its form: get the archive at {about.url} (licence: "
            f"{about.licence}), then `laresa data get {about.name} --archive FILE`"
        )


def _downloaded(about: About, base: Path) -> list[Path]:
    """The downloaded files, their checksums right."""
    parts = _parts(about, base)
    for i, (remote, part) in enumerate(zip(about.files, parts, strict=True)):
        assert remote.url is not None
        later = sum(other.unpacked for other in about.files) + sum(other.size for other in about.files[i + 1 :])
        download(
            remote.url,
            part,
            size=remote.size,
            room=later,
            checked=remote.checksum is not None,
            tell=_progress(part.stem.lstrip(".")),
        )
        try:
            _verify(part, remote, "it was removed, the same command begins anew")
        except DataError:
            forget(part)
            raise
    return parts


def _parts(about: About, base: Path) -> list[Path]:
    """Where each of the files is downloaded to."""
    several = len(about.files) > 1
    return [base / f".{about.name}{f'.{_file_name(remote)}' if several else ''}.part" for remote in about.files]


def _forget(about: About, base: Path) -> None:
    for part in _parts(about, base):
        forget(part)


def _given(about: About, archive: str | Path) -> list[Path]:
    """The user's own files, their checksums right."""
    path = expanded(str(archive), "--archive")
    several = len(about.files) > 1
    if several and not path.is_dir():
        names = ", ".join(map(_file_name, about.files))
        raise DataError(f"--archive {path}: expected the folder that holds {about.name}'s files {names}")
    files = [path / _file_name(remote) for remote in about.files] if several else [path]
    for file, remote in zip(files, about.files, strict=True):
        if not file.is_file():
            raise DataError(f"--archive {file}: no such file")
        _verify(file, remote, f"expected the file of {remote.url or about.url}")
    return files


def _verify(path: Path, remote: Remote, mend: str) -> None:
    if remote.checksum is None:
        return
    method, _, expected = remote.checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(method, usedforsecurity=False)).hexdigest()
    if found != expected:
        size = path.stat().st_size
        short = f"is cut off ({size:,} of {remote.size:,} bytes) or changed" if size < remote.size else "is changed"
        raise DataError(f"{path} {short}: expected {method} {expected}, found {found}; {mend}")


def _file_name(remote: Remote) -> str:
    return (remote.url or "").rpartition("/")[2]


# ---------------------------------------------------------------------- unpacking
def _unpack(about: About, files: Sequence[Path], unpacking: Path) -> None:
    """The files in `unpacking`, the marker among them."""

    def before(names: frozenset[str], size: int) -> None:
        if not names.intersection(markers):
            raise DataError(f"{files[0]} holds no {markers[0]}: expected the archive of {about.name}")
        check_room(unpacking.parent, size + BLOCK * len(names), f"{about.name}, unpacked,")

    markers = [f"{folder}/{about.marker}" for folder in about.folders] + [about.marker]
    remote = about.files[0]
    if remote.kind == "file":
        before(frozenset(map(_file_name, about.files)), sum(file.stat().st_size for file in files))
        unpacking.mkdir()
        for file, of in zip(files, about.files, strict=True):
            shutil.copyfile(file, unpacking / _file_name(of))
    else:
        print(f"{about.name}: unpacking", file=sys.stderr)
        unpack(files[0], remote.kind, unpacking, limit=SPARE * remote.unpacked, before=before)
    if not any((unpacking / marker).is_file() for marker in markers):
        raise DataError(f"{files[0]} did not give {markers[0]}: expected the archive of {about.name}")


def _sync(folder: Path) -> None:
    """What was unpacked is on the disk, before its name says so."""
    inside = list(folder.rglob("*"))
    if len(inside) > SINGLY:
        os.sync()
        return
    for path in inside:
        if path.is_dir():
            sync_folder(path)
        elif not path.is_symlink():
            sync_file(path)
    sync_folder(folder)


# ---------------------------------------------------------------------- the user
def _progress(what: str) -> Callable[[int, int | None], None]:
    """Tells how far a download is: a line that is written over in a terminal, elsewhere one every tenth."""
    terminal, told, next_time = sys.stderr.isatty(), -1, 0.0

    def tell(have: int, total: int | None) -> None:
        nonlocal told, next_time
        whole = total is not None and have >= total
        tenth = 10 * have // total if total else have // 10**8
        now = time.monotonic()
        if not (whole and told != 10) and (now < next_time if terminal else tenth == told):
            return
        told, next_time = (10 if whole else tenth), now + 0.2
        of = f" of {total / 1e6:,.1f} MB, {100 * have // total}%" if total else " MB"
        line = f"{what}: {have / 1e6:,.1f}{of}"
        start, end = ("\r", "\n" if whole else "") if terminal else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)

    return tell


@contextmanager
def _told(base: Path) -> Iterator[None]:
    """What the disk refuses, as an error that a user can mend."""
    try:
        yield
    except LaresaError as error:
        if isinstance(error, ValueError):
            raise
        raise DataError(str(error)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{error.filename or base} can't be read or written ({reason}): make room or give rights there, or choose "
            "another folder with --to; the same command goes on"
        ) from error


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """One process at a time; a second waits, then finds the work done. A dead process holds no lock."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: another process fetches it, waiting", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

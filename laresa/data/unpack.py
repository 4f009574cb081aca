"""Unpacking an archive from elsewhere: every member is looked at before the first byte is written."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from laresa.errors import UNSAFE, DataError

MEMBERS = 1_000_000  # that an archive may have
HEADER = 2**20  # bytes of one: of more, a header is made to fill the memory


@dataclass(frozen=True)
class Member:
    """kind: "other" is what no data set has: a device, a pipe, a file with holes. target: of a link."""

    name: str
    kind: Literal["file", "folder", "symlink", "hardlink", "other"]
    size: int = 0
    target: str = ""


def unpack(
    archive: Path, kind: str, folder: Path, *, limit: int, before: Callable[[frozenset[str], int], None]
) -> None:
    """Unpack into `folder`, which is made. before: called with the files' names and their bytes, may raise.

    DataError: it's no archive of that kind, cut off or damaged, has a member that would be written elsewhere or is
    neither file nor folder, or more than `limit` bytes. Then nothing is written, but for damage found in unpacking.
    """
    with _told(archive, kind):
        if kind == "zip":
            with zipfile.ZipFile(archive) as zipped:
                before(*check(archive, map(_of_zip, zipped.infolist()), limit))
                folder.mkdir()
                zipped.extractall(folder)
        else:
            with _Bounded(archive) as raw, tarfile.open(fileobj=raw, mode="r:", errorlevel=1) as tar:
                found = check(archive, map(_of_tar, tar), limit)
                _to_the_end(archive, raw, limit)
                before(*found)
                folder.mkdir()
                tar.extractall(folder, filter="data")


def check(archive: Path, members: Iterable[Member], limit: int) -> tuple[frozenset[str], int]:
    """(names of the files, their bytes). DataError: a member that must not be unpacked, or too many."""
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    links: list[tuple[tuple[str, ...], Member]] = []
    total = 0
    for number, member in enumerate(members):
        path = _parts(archive, member)
        total += member.size
        if total > limit or number >= MEMBERS:
            raise DataError(
                f"{archive} unpacks to more than {limit / 1e9:,.2f} GB or {MEMBERS:,} files, far more than the data "
                "set has: nothing was unpacked"
            )
        if member.kind == "other" or not (path or member.kind == "folder"):
            raise _bad(archive, member.name, "is neither file, folder nor link")
        if member.kind in ("file", "folder"):
            (files if member.kind == "file" else folders).add(path)
        else:
            links.append((path, member))
            folders.add(path[:-1])
    known = {path for path, _ in links}
    for path in files | folders if known else ():
        if any(path[:i] in known for i in range(1, len(path) + 1)):
            raise _bad(archive, "/".join(path), "lies beneath a link, or is one too")
    for path, link in links:
        _check_link(archive, path, link, known, files)
    return frozenset("/".join(path) for path in files), total


def _parts(archive: Path, member: Member) -> tuple[str, ...]:
    name = member.name
    if UNSAFE.search(name) or "\n" in name or "\t" in name:
        raise _bad(archive, name, "has control characters in its name")
    if name.startswith("/") or "\\" in name or name[1:2] == ":":
        raise _bad(archive, name, "has an absolute path")
    path = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in path:
        raise _bad(archive, name, "would be written outside of the folder (..)")
    return path


def _check_link(
    archive: Path, path: tuple[str, ...], link: Member, links: Container[tuple[str, ...]], files: Container[object]
) -> None:
    """A link must lead inside, and through no other: of two that are harmless alone, one can lead the other out."""
    at = list(path[:-1]) if link.kind == "symlink" else []  # a hard link's target is counted from the archive's top
    wrong = link.target.startswith("/") or bool(UNSAFE.search(link.target))
    for part in link.target.split("/"):
        if part == "..":
            wrong = wrong or not at
            at = at[:-1]
        elif part not in ("", "."):
            at.append(part)
        wrong = wrong or tuple(at) in links
    if wrong or (link.kind == "hardlink" and tuple(at) not in files):
        raise _bad(archive, link.name, f"is a link that leads outside, or through a link: {link.target!r}")


def _bad(archive: Path, name: str, why: str) -> DataError:
    return DataError(f"{archive}: its member {name!r} {why}: nothing was unpacked, don't trust that file")


def _of_tar(member: tarfile.TarInfo) -> Member:
    if member.issym() or member.islnk():
        return Member(member.name, "symlink" if member.issym() else "hardlink", 0, member.linkname)
    if member.isdir():
        return Member(member.name, "folder")
    return Member(member.name, "file" if member.isfile() and not member.issparse() else "other", member.size)


def _of_zip(member: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where no Unix made it
    if member.is_dir():
        return Member(member.filename, "folder")
    return Member(member.filename, "file" if kind in (0, stat.S_IFREG) else "other", member.file_size)


class _Bounded(gzip.GzipFile):
    """tarfile reads a long name or a comment whole: one of many GB would be the memory's end."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _to_the_end(archive: Path, raw: gzip.GzipFile, limit: int) -> None:
    """Read what follows the last member: only at its end does gzip tell whether all came, unchanged."""
    read = 0
    while chunk := raw.read(HEADER):
        read += len(chunk)
        if read > limit:
            raise DataError(f"{archive} goes on for more than {limit / 1e9:,.2f} GB after its last member")


@contextmanager
def _told(archive: Path, kind: str) -> Iterator[None]:
    """What is wrong with an archive, as DataError."""
    try:
        yield
    except EOFError as error:
        raise DataError(f"{archive} is cut off: its end is missing ({error})") from error
    except (tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{archive} is damaged, or no {kind}: {error}") from error
    except (RuntimeError, NotImplementedError, UnicodeError, ValueError) as error:  # encrypted, packed in another way
        if isinstance(error, DataError):
            raise
        raise DataError(f"{archive} can't be unpacked as {kind}: {error}") from error

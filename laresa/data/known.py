"""The data sets that a user fetches under their own terms: what they are, where they are looked for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from laresa.errors import DataError, MissingDataError
from laresa.paths import expanded


@dataclass(frozen=True)
class Remote:
    """A file to download: an archive, or a file that is used as it is.

    url: None where the host wants a form filled in first. checksum: "md5:..." or "sha256:..."; None: none is public.
    size, unpacked: bytes of it, and of what it becomes; `unpacked` is about, on a disk of 4 KiB blocks.
    """

    url: str | None
    kind: Literal["tar.gz", "zip", "file"]
    checksum: str | None
    size: int
    unpacked: int


@dataclass(frozen=True)
class About:
    """folders: names that the unpacked archive may bear; marker: a file in it. images: of all splits with labels.
    size: pixels of a side, where nobody asks for others.

    url: where a person finds it. files: what `laresa data get` downloads: one archive, or files to be used as they are.
    """

    name: str
    folders: tuple[str, ...]
    marker: str
    url: str
    licence: str
    classes: int
    images: int
    size: int
    files: tuple[Remote, ...] = ()


def base_folder(root: str | Path | None = None) -> Path:
    """Where data sets lie: `root`, else $LARESA_DATA, else ~/data. ConfigError: that can't be a path."""
    chosen = root or os.environ.get("LARESA_DATA") or Path.home() / "data"
    return expanded(str(chosen), "folder of data sets" if root else "LARESA_DATA")


def places(about: About, root: str | Path | None = None) -> list[Path]:
    """Where the data set is looked for: `root`, else $LARESA_DATA, else ~/data; there, and in its own folders."""
    base = base_folder(root)
    own = [base, base / about.name]
    return [place / name for place in own for name in about.folders] + own


def find(about: About, root: str | Path | None = None) -> Path:
    """The data set's folder; DataError says where to get it and where to put it."""
    looked = places(about, root)
    for place in looked:
        if (place / about.marker).is_file():
            return place
    raise MissingDataError(
        f"{about.name} is not here: no {about.marker} in {', '.join(map(str, looked))}. `laresa data get {about.name}` "
        f"fetches it (licence: {about.licence}); or unpack {about.url} in {looked[-2]}, or set LARESA_DATA to the "
        "folder in which it was unpacked"
    )


def lines(path: Path, separator: str) -> list[list[str]]:
    """The fields of a text file's lines, empty lines left out; DataError for a missing file or a line of one field.

    A file whose lines all have one field is a plain list.
    """
    rows = {number: line.split(separator) for number, line in _numbered(path)}
    wanted = max(map(len, rows.values()))
    for number, row in rows.items():
        if len(row) < min(wanted, 2):
            raise DataError(f"{path}, line {number}: expected lines of fields, found {row}")
    return list(rows.values())


def pairs(path: Path, *, among: Collection[str] = (), twice: str = "stands in two lines") -> dict[str, str]:
    """{first word of a line: the rest of it}, both without blanks around them.

    among: what the rest may be; anything if empty. DataError, with the line's number, for a missing file, a line of one
    word, a rest that is not `among`, a word that begins two lines (`twice` says what that means).
    """
    found: dict[str, str] = {}
    for number, line in _numbered(path):
        key, _, rest = line.strip().partition(" ")
        value, where = rest.strip(), f"{path}, line {number}"
        if not value:
            raise DataError(f"{where}: expected two fields with a blank between, found {line!r}")
        if among and value not in among:
            raise DataError(f"{where}: {value!r} is none of the {len(among)} known")
        if key in found:
            raise DataError(f"{where}: {key!r} {twice}: {found[key]!r} and {value!r}")
        found[key] = value
    return found


def same_keys(tables: Mapping[Path, Mapping[str, str]]) -> None:
    """DataError unless all tables speak of the same images."""
    first, *others = tables
    for other in others:
        if odd := tables[first].keys() ^ tables[other].keys():
            where, lacking = (first, other) if min(odd) in tables[first] else (other, first)
            raise DataError(f"{lacking} has no line of image {min(odd)}, which stands in {where}")


def _numbered(path: Path) -> list[tuple[int, str]]:
    """(number from 1, line), empty lines left out. DataError: the file can't be read, or has no line."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    found = [(number, line) for number, line in enumerate(texts, start=1) if line.strip()]
    if not found:
        raise DataError(f"{path}: expected lines of fields, found an empty file")
    return found


def plain(name: str) -> str:
    """A name reduced to its letters and digits, to compare spellings: "Bow-tie" and "bow tie" are one."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())

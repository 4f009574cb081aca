"""The data sets that a user fetches under their own terms: what they are, where they are looked for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from laresa.errors import DataError


@dataclass(frozen=True)
class About:
    """folders: names that the unpacked archive may bear; marker: a file in it. images: of all splits with labels."""

    name: str
    folders: tuple[str, ...]
    marker: str
    url: str
    licence: str
    classes: int
    images: int


def places(about: About, root: str | Path | None = None) -> list[Path]:
    """Where the data set is looked for: `root`, else $LARESA_DATA, else ~/data; there, and in its own folders."""
    base = Path(root or os.environ.get("LARESA_DATA") or Path.home() / "data").expanduser()
    own = [base, base / about.name]
    return [place / name for place in own for name in about.folders] + own


def find(about: About, root: str | Path | None = None) -> Path:
    """The data set's folder; DataError says where to get it and where to put it."""
    looked = places(about, root)
    for place in looked:
        if (place / about.marker).is_file():
            return place
    raise DataError(
        f"{about.name} is not here: no {about.marker} in {', '.join(map(str, looked))}. Fetch {about.url} (licence: "
        f"{about.licence}), unpack it in {looked[-2]}, or set LARESA_DATA to the folder in which it was unpacked"
    )


def lines(path: Path, separator: str, *, most: int = 0) -> list[list[str]]:
    """The fields of a text file's lines, empty lines left out; DataError for a missing file or a line of one field.

    A file whose lines all have one field is a plain list. most: fields a line, the last one with separators in it.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
        rows = [line.split(separator, most - 1) for line in texts if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    wanted = max(map(len, rows), default=0)
    short = next((row for row in rows if len(row) < min(wanted, 2)), None)
    if short is not None or not rows:
        raise DataError(f"{path}: expected lines of fields, found {short or 'an empty file'}")
    return rows


def pairs(path: Path, *, twice: str = "stands in two lines") -> dict[str, str]:
    """{first word of a line: the rest of it}, both without blanks around them.

    DataError for a missing file, a line of one word, a word that begins two lines (`twice` says what that means).
    """
    found: dict[str, str] = {}
    for row in lines(path, " ", most=2):
        key, value = row[0].strip(), "".join(row[1:]).strip()
        if not key or not value:
            raise DataError(f"{path}: expected lines of two fields with a blank between, found {' '.join(row)!r}")
        if key in found:
            raise DataError(f"{path}: {key!r} {twice}: {found[key]!r} and {value!r}")
        found[key] = value
    return found


def plain(name: str) -> str:
    """A name reduced to its letters and digits, to compare spellings: "Bow-tie" and "bow tie" are one."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())

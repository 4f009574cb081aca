"""Errors a user can mend. Each message names the value, what was expected, and where to look."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class LaresaError(Exception):
    """Base of the errors that the command line prints as they are: exit code 2 for a ValueError too, else 1."""


class ConfigError(LaresaError, ValueError):
    """A configuration field, subset or option that can't be used."""


class LatentWidthError(ConfigError):
    """Latents of another width than the label embeddings that a term holds them against."""


class DataError(LaresaError, ValueError):
    """A data set, image or taxonomy that can't be used."""


class NotHereError(LaresaError):
    """What this machine lacks, and another may have."""


class MissingDataError(DataError, NotHereError):
    """A data set that is nowhere it is looked for."""


class MissingWeightsError(ConfigError, NotHereError):
    """Pretrained weights that can't be had from here."""


class StorageError(LaresaError, OSError):
    """A place where files are kept can't be used: full, not writable, away; what was written before is whole."""


class DamagedError(StorageError):
    """A file is not what was written: cut off, changed, or of another version."""


class CheckpointError(DamagedError):
    """A checkpoint is damaged, or of other data or settings; the one before it may be whole."""


class NonFiniteLossError(LaresaError, ArithmeticError):
    """A loss term became NaN or infinite; training can't go on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near match, else the sorted list of what is known."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"


# Control characters but tab and newline; what turns the direction of text; halves of characters, as in file names that
# are not UTF-8.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SECRET = re.compile(r"(?<=://)[^\s/@]*:\S*@")


def printable(text: str) -> str:
    """The text as a terminal may have it: what would steer it escaped, passwords in addresses left out."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], SECRET.sub("***@", text))

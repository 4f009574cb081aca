"""One file over HTTP, resumed where it broke off: PART holds what came, PART.json of which file that is a beginning."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from laresa.errors import DataError
from laresa.files import atomic_write

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try; as many tries may fail in a row without a new byte
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**18
PASSING = frozenset({408, 425, 429})  # of the answers 400 to 499 those that a second try may mend

Tell = Callable[[int, int | None], None]  # (bytes there, bytes in all if known)


class _BrokenError(Exception):
    """The network's fault: another try may do."""


def download(url: str, part: Path, *, size: int, room: int, checked: bool, tell: Tell) -> None:
    """Make `part` the whole file of `url`; what is there of it already isn't fetched again.

    size: bytes that it has, about; of use where the server doesn't say. room: bytes of the disk to be left for later.
    checked: somebody compares a checksum afterwards, so that a beginning may be continued on its length alone.
    DataError: the server refuses, stays away, or the disk has no room; what came is kept.
    """
    furthest, failures = _length(part), 0
    while True:
        try:
            if _attempt(url, part, size=size, room=room, checked=checked, tell=tell):
                return
            why = "the connection was cut"
        except _BrokenError as error:
            why = str(error)
        if _length(part) > furthest:
            furthest, failures = _length(part), 0
        if failures == len(PAUSES):
            raise DataError(
                f"{url} can't be fetched: {why} ({failures + 1} tries in a row); {_length(part):,} bytes are kept, and "
                "the same command resumes there"
            )
        print(f"{url}: {why}; trying again", file=sys.stderr)
        time.sleep(PAUSES[failures])
        failures += 1


def forget(part: Path) -> None:
    """Remove a beginning, so that the next download begins anew."""
    part.unlink(missing_ok=True)  # first: a note without a beginning does no harm
    note = _beside(part)
    for path in (note, *part.parent.glob(f".*.{note.name}")):  # and what was half a note when a process died
        path.unlink(missing_ok=True)


def check_room(where: Path, needed: int, what: str) -> None:
    """DataError unless the disk has room for `needed` more bytes."""
    free = shutil.disk_usage(where).free
    if needed > free:
        raise DataError(
            f"{what} takes {needed / 1e9:,.2f} GB more, of which {where} has {free / 1e9:,.2f} free: make room, or "
            "choose another disk with --to"
        )


def _attempt(url: str, part: Path, *, size: int, room: int, checked: bool, tell: Tell) -> bool:
    """Whether the file is whole after one request."""
    note = _note(part, url)
    have = _length(part)
    if note and have == note["total"]:
        return True
    headers = {"User-Agent": "laresa"}
    if have and (note["validator"] or checked):
        headers["Range"] = f"bytes={have}-"
        if note["validator"]:
            headers["If-Range"] = note["validator"]
    try:
        response = _open(url, headers)
    except urllib.error.HTTPError as error:
        with error:
            return _refused(error, url, part, have)
    with response:
        continued = _continued(response, have) if "Range" in headers else False
        length = response.headers.get("Content-Length", "")
        comes = int(length) if length.isdecimal() else None
        if response.status == 206 and not continued:  # another piece than was asked for
            forget(part)
            return False
        have = have if continued else 0
        total = None if comes is None else have + comes
        check_room(part.parent, max(0, (total or size) - have) + room, f"{url}, unpacked,")
        if not continued:
            forget(part)
            note = {"url": url, "validator": _validator(response), "total": total}
            atomic_write(_beside(part), json.dumps(note))
        with part.open("ab" if continued else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                have += len(chunk)
                tell(have, total)
    return total is None or have == total


def _open(url: str, headers: dict[str, str]) -> HTTPResponse:
    with _network():
        response: HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers),
            timeout=TIMEOUT,
        )
    return response


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        with _network():
            chunk = response.read1(CHUNK)  # what is there: a slow line's progress is seen, and kept
        if not chunk:
            return
        yield chunk


@contextmanager
def _network() -> Iterator[None]:
    """Errors in reading as _BrokenError: those in writing are the disk's, and no second try mends them."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _BrokenError(f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__) from error


def _refused(error: urllib.error.HTTPError, url: str, part: Path, have: int) -> bool:
    """An answer of 400 and above. 416: nothing comes after what is there, because that is all, or of another file."""
    answer = f"it answers {error.code} {error.reason}"
    if error.code == 416 and have:
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", "").strip())
        if whole and int(whole[1]) == have:
            return True
        forget(part)
        return False
    if error.code < 500 and error.code not in PASSING:
        raise DataError(
            f"{url} can't be fetched: {answer}; has it moved? --archive FILE takes the file if you have it from "
            "elsewhere"
        )
    raise _BrokenError(answer)


def _continued(response: HTTPResponse, have: int) -> bool:
    """Whether what comes begins where what is there ends: a server may ignore Range, and sends all (200)."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", "").strip())
    return response.status == 206 and found is not None and int(found[1]) == have


def _validator(response: HTTPResponse) -> str | None:
    """What If-Range takes: a strong ETag, else the time of the last change."""
    tag = response.headers.get("ETag", "").strip()
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _note(part: Path, url: str) -> dict[str, Any]:
    """What is known of the beginning; empty, and `part` forgotten, if it is of another file, or unknown."""
    try:
        note = json.loads(_beside(part).read_bytes())
        if note["url"] == url and {"validator", "total"} <= note.keys():
            return dict(note)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass
    forget(part)
    return {}


def _beside(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

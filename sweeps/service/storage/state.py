"""State files: JSON with a checksum; and the digests of others."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laresa.errors import DamagedError, StorageError
from laresa.files import atomic_write

log = logging.getLogger("laresa.storage")


# ---------------------------------------------------------------------------------------------------- JSON
CHECKSUM = "checksum"


def write_json(path: Path, value: Any) -> None:
    atomic_write(path, json.dumps(value, indent=1))


def read_json(path: Path) -> Any:
    """None where there is no such file. DamagedError: it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:  # text that is no UTF-8, too
        raise DamagedError(f"{path} is damaged ({error}): move it away and run the same command again") from error
    except OSError as error:
        raise StorageError(f"{path} can't be read ({error.strerror or error})") from error


def write_state(path: Path, value: Mapping[str, Any]) -> None:
    """JSON with a checksum among its keys, for what decides how a sweep goes on."""
    write_json(path, {**value, CHECKSUM: checksum(value)})


def read_state(path: Path) -> Any:
    """What `write_state` wrote; None where there is nothing. DamagedError: one bit of it is another."""
    value = read_json(path)
    if value is None:
        return None
    if not isinstance(value, dict) or value.pop(CHECKSUM, None) != checksum(value):
        raise DamagedError(
            f"{path} is damaged: its content is not what was written (or was by an earlier version); "
            "move it away and run the same command again"
        )
    return value


def undamaged(path: Path, so: str) -> Any:
    """As `read_state`, and None for a damaged file, which is warned of once. so: what comes of it."""
    try:
        return read_state(path)
    except DamagedError as error:
        _warn(f"{str(error).partition(';')[0]}; {so}")
        return None


@functools.cache
def _warn(text: str) -> None:
    log.warning("%s", text)


def checksum(value: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(value).encode()):08x}"


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Paths as a user types them."""

from __future__ import annotations

from pathlib import Path

from laresa.errors import ConfigError


def expanded(text: str, what: str) -> Path:
    """The path, `~` resolved. what: as a message calls it. ConfigError: no such user, or nothing can be called that."""
    try:
        path = Path(text).expanduser()
        path.exists()  # asks the file system, which refuses some names
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"no home folder of {text.split('/')[0]!r} is known"
        raise ConfigError(f"{what} {text[:100]!r}: expected a path ({reason})") from error
    return path

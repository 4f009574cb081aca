"""Files and folders that only their owner can read, whatever the umask is and whatever was there before."""

from __future__ import annotations

import os
from pathlib import Path

UMASK = 0o077  # of a process all of whose files are private


def write_private(path: Path, text: str) -> None:
    """Only its owner can read it, from the first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def private_folder(folder: Path) -> None:
    """The folder with mode 0700, made where it is missing. PermissionError: it is another user's."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)


def close(folder: Path) -> None:
    """0700 for the folder and those in it, 0600 for their files. What a link leads to is left alone."""
    private_folder(folder)
    for root, folders, files in os.walk(folder):
        for name, mode in [*((name, 0o700) for name in folders), *((name, 0o600) for name in files)]:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(mode)

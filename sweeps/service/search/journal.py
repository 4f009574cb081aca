"""The journal file in which Optuna keeps a sweep's studies: what a dead driver left of it, and damage by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laresa.errors import StorageError
from sweeps.service.storage.files import SweepFolder

NAME = "optuna.journal"


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """StorageError for whatever Optuna makes of a file that it can't read or replay."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"study file {path} can't be used: {error}") from error
    except Exception as error:  # the replay meets damage with an assertion, a missing key, or whatever comes of it
        raise StorageError(
            f"study file {path} is damaged or from another version of Optuna ({error}): move it away"
        ) from error


def clear_after_death(path: Path) -> None:
    """Remove what a dead driver left: its lock, and the line it was writing.

    Optuna would append to half a line, and could never read the file again. For the holder of the sweep's lock only.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    written = path.read_bytes()
    if written and not written.endswith(b"\n"):
        os.truncate(path, written.rfind(b"\n") + 1)


def forget(folder: SweepFolder, name: str) -> None:
    """Delete a study, so that it begins anew."""
    from sweeps.service.search.checked_journal import storage_at

    path = folder.file(NAME)
    clear_after_death(path)
    with damage_named(path):
        storage = storage_at(path)
        storage.delete_study(storage.get_study_id_from_name(name))
    folder.keep(NAME)

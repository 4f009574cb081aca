"""What a worker sees to before it trains: that its host can reach the sweep."""

from __future__ import annotations

import platform

from laresa.errors import LaresaError
from sweeps.service.storage.files import StorageError, SweepFolder


class BlindWorkerError(LaresaError):
    """This worker's host does not see the sweep's storage."""


def check_here(folder: SweepFolder) -> None:
    """On a worker, of a host that may have joined later: BlindWorkerError where the sweep's plan can't be seen."""
    try:
        sees, why = folder.has("plan.json"), "is the shared folder mounted there?"
    except StorageError as error:
        sees, why = False, str(error)
    if not sees:
        raise BlindWorkerError(f"{platform.node()} does not see {folder.place}: {why}")

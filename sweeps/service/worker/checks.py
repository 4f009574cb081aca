"""What a worker sees to before it trains: that its host can reach the sweep, and has the driver's code."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from laresa.code import locate, raw_digest
from laresa.errors import LaresaError, StorageError
from sweeps.service.provenance import code_folders
from sweeps.service.storage.files import SweepFolder


class BlindWorkerError(LaresaError):
    """This worker's host does not see the sweep's storage."""


class OtherCodeError(LaresaError):
    """This worker's host has other code than the driver."""


_own: dict[Path, str] = {}  # digests of this process's files, which it has imported by now


def check_code(files: Mapping[str, str]) -> None:
    """OtherCodeError where a file of this host is not the driver's. files: name -> digest of its bytes there."""
    for name, told in files.items():
        path = locate(name, code_folders())
        if path is not None and path not in _own:
            _own[path] = raw_digest(path)
        own = "missing" if path is None else _own[path]
        if own != told:
            raise OtherCodeError(
                f"{platform.node()} has another {name} than the driver (sha256 {own} here, {told} there): bring "
                "the same code to every host and run the same command again"
            )


def check_here(folder: SweepFolder) -> None:
    """On a worker, of a host that may have joined later: BlindWorkerError where the sweep's plan can't be seen."""
    try:
        sees, why = folder.has("plan.json"), "is the shared folder mounted there?"
    except StorageError as error:
        sees, why = False, str(error)
    if not sees:
        raise BlindWorkerError(f"{platform.node()} does not see {folder.place}: {why}")

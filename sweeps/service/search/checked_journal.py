"""Optuna's journal with a checksum in every line, among its keys, where Optuna passes it over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from laresa.files import cant_write, failpoint
from sweeps.service.storage.state import CHECKSUM, checksum


class CheckedJournal(JournalFileBackend):
    """Takes back half a line when the disk is full. ValueError: one that is read is not what was written."""

    def __init__(self, path: Path, lock: JournalFileOpenLock | None = None) -> None:
        super().__init__(str(path), lock_obj=lock)
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        failpoint(f"append to {self._path}")
        size = self._path.stat().st_size
        try:
            super().append_logs([{**line, CHECKSUM: checksum(line)} for line in logs])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)
            raise cant_write(self._path, error) from error

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
            if line.pop(CHECKSUM, None) != checksum(line):
                raise ValueError(f"line {number} is not what was written")
            yield line


def storage_at(path: Path) -> JournalStorage:
    """Optuna's storage in the file. For the holder of the sweep's lock only."""
    return JournalStorage(CheckedJournal(path, JournalFileOpenLock(str(path))))

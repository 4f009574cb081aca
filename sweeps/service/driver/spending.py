"""What a sweep has cost in GPU-hours, over all its runs, and the budget at which it ends."""

from __future__ import annotations

import contextlib
import time

from laresa.errors import ConfigError, StorageError
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import RunOptions

NAME = "spent.json"
WRITE_SECONDS = 60.0  # what a driver that is killed may forget


class BudgetReachedError(Exception):
    """The sweep ends here, resumably; the message says which budget it was and what continues."""


class Spending:
    """GPU-seconds: shares of GPUs that trials hold, times how long."""

    def __init__(self, folder: SweepFolder, options: RunOptions) -> None:
        self._folder, self._hours = folder, options.max_gpu_hours
        self.seconds = float((folder.read_derived(NAME) or {}).get("gpu_seconds", 0.0))
        self._at = self._written = time.monotonic()

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def reached(self) -> str:
        """Why to end; "" while there is something left."""
        if self._hours is None or self.hours < self._hours:
            return ""
        return f"--max-gpu-hours {self._hours:g} are spent ({self.hours:.2f}): a greater number continues"

    def check(self, gpus: float) -> None:
        """Before trials are begun. BudgetReachedError; ConfigError: they hold no GPU, so that it could never end."""
        if self._hours is not None and not gpus:
            raise ConfigError(
                f"--max-gpu-hours {self._hours:g}: trials run on the CPU here; expected no such budget, or GPUs"
            )
        if self.reached:
            raise BudgetReachedError(self.reached)
        self._at = time.monotonic()

    def hold(self, gpus: float) -> None:
        """So much was held since the last call."""
        now = time.monotonic()
        self.seconds += gpus * (now - self._at)
        self._at = now
        if now - self._written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        if self.seconds:
            with contextlib.suppress(StorageError):  # the trials say so
                self._folder.write(NAME, {"gpu_seconds": self.seconds})

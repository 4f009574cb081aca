"""A sweep's storage: checkpoints and outcomes under the trial's signature.

It is the truth; the tracker holds a delivered copy.

    <storage>/<sweep>/driver.lock
    <storage>/<sweep>/trials/<signature>/attempt-0001/checkpoint-000012.safetensors
                                         outcome.json, weights.safetensors, latents.npz
                                         delivered       once the tracker has all of it

Whoever trains a signature next takes a new attempt number and goes on from the newest checkpoint. A predecessor that
still lives (a host cut off and back again) sees the newer attempt and stops: it can't write over its successor.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laresa.errors import LaresaError


class StorageError(LaresaError, OSError):
    """The storage path can't be used."""


class SweepBusyError(LaresaError):
    """Another process runs this sweep."""


class FencedError(LaresaError):
    """A newer attempt trains this signature; this one must stop."""


@dataclass(frozen=True)
class Attempt:
    """One try at a trial: the right to write its checkpoint and outcome until a newer attempt exists."""

    trial: TrialFolder
    number: int

    def checkpoint(self, epoch: int) -> Path:
        """A new name each epoch: replacing a file makes the disk wait, and the one before it is a safe retreat."""
        return self.trial.attempt_folder(self.number) / f"checkpoint-{epoch:06d}.safetensors"

    def drop_older_checkpoints(self) -> None:
        """Keep the newest two of the trial."""
        for old in self.trial.checkpoints()[2:]:
            old.unlink(missing_ok=True)

    def check(self) -> None:
        newest = max(self.trial.attempt_numbers())
        if newest != self.number:
            raise FencedError(f"attempt {self.number} of {self.trial.root} gives way to attempt {newest}")

    def conclude(self, outcome: Mapping[str, Any]) -> None:
        """Write outcome.json, after whatever files it speaks of; drop checkpoints, which nobody needs any more."""
        self.check()
        write_json(self.trial.root / "outcome.json", {**outcome, "attempts": self.number})
        for checkpoint in self.trial.checkpoints():
            checkpoint.unlink(missing_ok=True)


@dataclass(frozen=True)
class TrialFolder:
    root: Path

    def attempt_folder(self, number: int) -> Path:
        return self.root / f"attempt-{number:04d}"

    def attempt_numbers(self) -> list[int]:
        return sorted(int(path.name.removeprefix("attempt-")) for path in self.root.glob("attempt-*"))

    def new_attempt(self) -> Attempt:
        """Take the next attempt number; mkdir is atomic, on network file systems too."""
        self.root.mkdir(parents=True, exist_ok=True)
        number = max(self.attempt_numbers(), default=0)
        while True:
            number += 1
            with contextlib.suppress(FileExistsError):
                self.attempt_folder(number).mkdir()
                return Attempt(self, number)

    def checkpoints(self) -> list[Path]:
        """Newest attempt and epoch first; a reader falls back to the next if one is damaged."""
        return sorted(
            self.root.glob("attempt-*/checkpoint-*.safetensors"), key=lambda path: path.parts[-2:], reverse=True
        )

    def outcome(self) -> dict[str, Any] | None:
        return read_json(self.root / "outcome.json")

    @property
    def delivered(self) -> Path:
        return self.root / "delivered"


@dataclass(frozen=True)
class SweepFolder:
    root: Path

    def trial(self, signature: str) -> TrialFolder:
        return TrialFolder(self.root / "trials" / signature)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep for this process; the kernel lets go when the process ends, however it ends."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / "driver.lock").open("a+")
        except OSError as error:
            raise StorageError(f"storage {self.root} can't be written ({error}): choose another --storage") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise SweepBusyError(
                    f"sweep {self.root.name!r} is being run by {holder}: "
                    f"wait for it, watch it with `laresa status {self.root.name}`, or choose another --sweep"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def busy(self) -> bool:
        """Whether some process holds the lock."""
        try:
            with (self.root / "driver.lock").open("a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def write_json(path: Path, value: Any) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1))
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise StorageError(f"{path} is damaged ({error}): move it away and run the same command again") from error

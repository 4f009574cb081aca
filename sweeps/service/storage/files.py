"""A sweep's storage: checkpoints and outcomes under the trial's key, its signature and the code that learned it.

It is the truth; the tracker holds a delivered copy.

    <storage>/<sweep>/driver.lock
    <storage>/<sweep>/trials/<signature>-<code>/attempt-0001/checkpoint-000012.safetensors
                                         measured.json   by epoch; of a search's trials, while they train
                                         group.json      which group's checkpoints hold its state, if not its own
                                         outcome.json, model.safetensors, latents.npz
                                         delivered       once the tracker has all of it
    <storage>/<sweep>/groups/<hash>/attempt-0001/checkpoint-000012.safetensors      of trials that train together

Whoever trains a trial next takes a new attempt number and goes on from the newest checkpoint. A predecessor that
still lives (a host cut off and back again) sees the newer attempt and stops: it can't write over its successor.

The files lie in a folder that every host sees (SharedFolder), or in a bucket (bucket_files.BucketFiles).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laresa.errors import DamagedError
from laresa.files import atomic_write, make_folder
from sweeps.service.storage.shared_folder import (
    SHARED_FOLDER,
    FencedError,
    SharedFolder,
    writing,
)
from sweeps.service.storage.state import file_digest, read_state, undamaged, write_state

log = logging.getLogger("laresa.storage")

MEASURED = "measured.json"  # while a search's trial trains
GROUP = "group.json"  # while a trial trains together with others


@dataclass(frozen=True)
class Attempt:
    """One try at a trial: the right to write its checkpoint and outcome until a newer attempt exists."""

    trial: TrialFolder
    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name.split("-")[1])

    def checkpoint(self, epoch: int) -> Path:
        """A new name each epoch: replacing a file makes the disk wait, and the one before it is a safe retreat."""
        return self.folder / f"checkpoint-{epoch:06d}.safetensors"

    def keep(self, checkpoint: Path) -> None:
        """The checkpoint is written: it counts, and of the trial's older ones the newest stays."""
        self.trial.files.put(checkpoint)
        for old in self.trial.checkpoints()[2:]:
            self.trial.files.delete(old)

    def check(self) -> None:
        newest = self.trial.newest_attempt()
        if newest.folder != self.folder:
            place = self.trial.files.place(self.trial.root)
            raise FencedError(f"attempt {self.number} of {place} gives way to attempt {newest.number}")

    def conclude(self, outcome: Mapping[str, Any]) -> None:
        """Write outcome.json, after whatever files it speaks of; then it is no longer under way."""
        self.check()
        self.trial.files.put_all(self.trial.root)
        self.check()  # putting may take its time
        files = {path.name: file_digest(path) for path in self.trial.left_files()}
        self.trial.write("outcome.json", {**outcome, "attempts": self.number, "files": files})
        self.trial.tidy()


@dataclass(frozen=True)
class TrialFolder:
    root: Path
    files: SharedFolder = SHARED_FOLDER

    def newest_attempt(self) -> Attempt:
        return Attempt(self, max(self.files.glob(self.root, "attempt-*")))

    def new_attempt(self) -> Attempt:
        """Take the next attempt number."""
        with writing(self.root):
            make_folder(self.root)
        known = self.files.glob(self.root, "attempt-*")
        number = Attempt(self, max(known)).number if known else 0
        while True:
            number += 1
            if (folder := self.files.claim(self.root / f"attempt-{number:04d}")) is not None:
                return Attempt(self, folder)

    def checkpoints(self) -> list[Path]:
        """Newest attempt and epoch first; a reader falls back to the next if one is damaged. `file` fetches one."""
        found = self.files.glob(self.root, "attempt-*/checkpoint-*.safetensors")
        return sorted(found, key=lambda path: path.parts[-2:], reverse=True)

    def drop_checkpoints(self) -> None:
        for path in self.checkpoints():
            self.files.delete(path)

    def tidy(self) -> None:
        """Drop what only a trial under way needs."""
        self.drop_checkpoints()
        for name in (MEASURED, GROUP):
            if self.files.has(self.root / name):
                self.files.delete(self.root / name)

    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self.checkpoints()) or self.files.has(self.root / GROUP)

    def file(self, name: str | Path) -> Path:
        """A file of the trial, to be read here."""
        return self.files.fetch(self.root / name)

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        write_state(self.root / name, value)
        self.files.put(self.root / name)

    def read(self, name: str) -> dict[str, Any] | None:
        """What `write` wrote; None where there is nothing, or it is damaged: what a trial left can be trained again."""
        return undamaged(self.file(name), "what it tells is trained again")

    def outcome(self) -> dict[str, Any] | None:
        return self.read("outcome.json")

    def left_files(self) -> list[Path]:
        """What a trial leaves beside its outcome, as it lies here."""
        state = ("outcome.json", "delivered", MEASURED, GROUP)
        found = [path for path in self.root.iterdir() if path.is_file() and path.name not in state]
        return sorted(path for path in found if not path.name.startswith("."))

    def latents(self) -> list[Path]:
        """Of single epochs, by RunOptions.latents_every; `file` fetches one."""
        return sorted(self.files.glob(self.root, "epoch-*.npz"))

    def check_files(self) -> None:
        """DamagedError: a file that the outcome speaks of is not what was written; the outcome is set aside."""
        for name, digest in ((self.outcome() or {}).get("files") or {}).items():
            path = self.file(name)
            if path.exists() and file_digest(path) != digest:
                self.files.delete(self.root / "outcome.json")
                raise DamagedError(
                    f"{path} is damaged: its content is not what was written; the same command trains its trial again"
                )

    def delivered(self) -> bool:
        return self.files.has(self.root / "delivered")

    def note_delivered(self, run_id: str, there: Iterable[Path]) -> None:
        """The tracker's run has it all; the files that are `there` are not kept twice."""
        atomic_write(self.root / "delivered", run_id)
        self.files.put(self.root / "delivered")
        for path in there:
            self.files.delete(path)


@dataclass(frozen=True)
class SweepFolder:
    root: Path
    files: SharedFolder = SHARED_FOLDER

    @property
    def place(self) -> str:
        """What another host finds it by: `open.sweep_at`."""
        return self.files.place(self.root)

    def trial(self, key: str) -> TrialFolder:
        return TrialFolder(self.root / "trials" / key, self.files)

    def group(self, name: str) -> TrialFolder:
        """Where trials that train together have their checkpoints."""
        return TrialFolder(self.root / "groups" / name, self.files)

    def drop_groups(self, left: Iterable[str]) -> None:
        """Of groups that no trial needs any more, what a worker that died has left there. left: keys of what trains."""
        groups = {path.name for path in self.files.glob(self.root, "groups/*")}
        noted = [self.trial(key).read(GROUP) for key in left] if groups else []
        for name in groups - {one["group"] for one in noted if one is not None}:
            self.group(name).drop_checkpoints()

    def keys(self) -> set[str]:
        """Of all trials that were begun."""
        return {path.name for path in self.files.glob(self.root, "trials/*")}

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the sweep for this process. SweepBusyError: another has it; StorageError: it can't be written."""
        return self.files.lock(self.root)

    def driver(self) -> str:
        """Whether one runs: "at work", "none", or "unknown" where the sweep's storage is not here."""
        return self.files.driver(self.root)

    def busy(self) -> bool:
        """Whether some process holds the lock."""
        return self.driver() == "at work"

    def file(self, name: str) -> Path:
        """A file of the sweep, to be read here."""
        return self.files.fetch(self.root / name)

    def has(self, name: str) -> bool:
        return self.files.has(self.root / name)

    def keep(self, name: str) -> None:
        """The file has changed here: so it is to be for all."""
        self.files.put(self.root / name)

    def read(self, name: str) -> Any:
        """What `write` wrote; None where there is nothing. DamagedError: it is something else."""
        return read_state(self.file(name))

    def read_derived(self, name: str) -> Any:
        """As `read`, of what can be made anew: None also where it is damaged."""
        return undamaged(self.file(name), "it is made anew")

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        write_state(self.root / name, value)
        self.keep(name)

    def snapshot(self) -> SweepFolder:
        """For reading many trials at once; what is written after it may be missing."""
        return SweepFolder(self.root, self.files.snapshot())

    def outcomes(self) -> list[dict[str, Any]]:
        """Of all trials that have one."""
        seen = self.snapshot().files
        found = [TrialFolder(path.parent, seen).outcome() for path in seen.glob(self.root, "trials/*/outcome.json")]
        return [outcome for outcome in found if outcome is not None]

    def for_tune(self) -> contextlib.AbstractContextManager[str]:
        return self.files.for_tune(self.root)

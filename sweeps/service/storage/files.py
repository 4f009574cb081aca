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
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laresa.errors import LaresaError

MEASURED = "measured.json"  # while a search's trial trains
GROUP = "group.json"  # while a trial trains together with others


class StorageError(LaresaError, OSError):
    """The storage path can't be used."""


class SweepBusyError(LaresaError):
    """Another process runs this sweep."""


class FencedError(LaresaError):
    """A newer attempt trains this trial; this one must stop."""


def home() -> Path:
    """Where everything local lives: $LARESA_HOME, else .laresa in the current folder."""
    return Path(os.environ.get("LARESA_HOME", ".laresa")).resolve()


class SharedFolder:
    """How a sweep's files become the same on every host: here they lie in a shared folder, and are so already.

    What is written is `put` afterwards, what may have been written elsewhere is `fetch`ed before it is read.
    """

    def place(self, path: Path) -> str:
        """The path as any host finds it (`open.sweep_at`), and as a message shows it."""
        return str(path)

    def has(self, path: Path) -> bool:
        return path.exists()

    def glob(self, folder: Path, pattern: str) -> list[Path]:
        return list(folder.glob(pattern))

    def fetch(self, path: Path) -> Path:
        """The path, with the file in it if there is one."""
        return path

    def put(self, path: Path) -> None:
        """The file is whole: from now on it counts."""

    def put_all(self, folder: Path) -> None:
        """As `put`, for the files of a folder."""

    def delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def snapshot(self) -> SharedFolder:
        """The same files, where reading many is cheap; what comes later may be missing."""
        return self

    def claim(self, folder: Path) -> Path | None:
        """The attempt folder, made for the caller alone; None if somebody has it. mkdir is atomic over NFS, too."""
        try:
            folder.mkdir()
        except FileExistsError:
            return None
        return folder

    @contextlib.contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Hold the sweep for this process; the kernel lets go when the process ends, however it ends."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / "driver.lock").open("a+")
        except OSError as error:
            raise StorageError(f"storage {folder} can't be written ({error}): choose another --storage") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise busy_error(folder.name, file.read().strip() or "another process") from error
            file.truncate(0)
            file.write(this_process())
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def driver(self, folder: Path) -> str:
        """Whether a driver holds the lock: "at work", "none", or "unknown" where the sweep is not here."""
        try:
            with (folder / "driver.lock").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return "unknown"
        except OSError:
            return "at work"
        return "none"

    @contextlib.contextmanager
    def for_tune(self, folder: Path) -> Iterator[str]:
        """A place that Tune's workers on all hosts can write to, though nothing in it matters."""
        for left in folder.glob("tune-*"):  # of a driver that was killed; this one holds the sweep alone
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="tune-", dir=folder) as scratch:
            yield scratch


SHARED_FOLDER = SharedFolder()


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
        """Write outcome.json, after whatever files it speaks of; drop what only a trial under way needs."""
        self.check()
        self.trial.files.put_all(self.trial.root)
        self.check()  # putting may take its time
        self.trial.write("outcome.json", {**outcome, "attempts": self.number})
        self.trial.drop_checkpoints()
        for left in (MEASURED, GROUP):
            self.trial.files.delete(self.trial.root / left)


@dataclass(frozen=True)
class TrialFolder:
    root: Path
    files: SharedFolder = SHARED_FOLDER

    def newest_attempt(self) -> Attempt:
        return Attempt(self, max(self.files.glob(self.root, "attempt-*")))

    def new_attempt(self) -> Attempt:
        """Take the next attempt number."""
        self.root.mkdir(parents=True, exist_ok=True)
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

    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self.checkpoints()) or self.files.has(self.root / GROUP)

    def file(self, name: str | Path) -> Path:
        """A file of the trial, to be read here."""
        return self.files.fetch(self.root / name)

    def write(self, name: str, value: Any) -> None:
        write_json(self.root / name, value)
        self.files.put(self.root / name)

    def outcome(self) -> dict[str, Any] | None:
        return read_json(self.file("outcome.json"))

    def delivered(self) -> bool:
        return self.files.has(self.root / "delivered")

    def note_delivered(self, run_id: str, there: Iterable[Path]) -> None:
        """The tracker's run has it all; the files that are `there` are not kept twice."""
        (self.root / "delivered").write_text(run_id)
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
        noted = [read_json(self.trial(key).file(GROUP)) for key in left] if groups else []
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
        return read_json(self.file(name))

    def write(self, name: str, value: Any) -> None:
        write_json(self.root / name, value)
        self.keep(name)

    def snapshot(self) -> SweepFolder:
        """For reading many trials at once; what is written after it may be missing."""
        return SweepFolder(self.root, self.files.snapshot())

    def outcomes(self) -> list[dict[str, Any]]:
        """Of all trials that have one."""
        seen = self.snapshot().files
        return [read_json(seen.fetch(path)) for path in seen.glob(self.root, "trials/*/outcome.json")]

    def for_tune(self) -> contextlib.AbstractContextManager[str]:
        return self.files.for_tune(self.root)


def this_process() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def busy_error(sweep: str, holder: str) -> SweepBusyError:
    return SweepBusyError(
        f"sweep {sweep!r} is being run by {holder}: "
        f"wait for it, watch it with `laresa status {sweep}`, or choose another --sweep"
    )


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

"""Where sweeps lie: a folder that all hosts see, and what holds of it alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from laresa.errors import LaresaError, StorageError
from laresa.files import cant_write, failpoint, make_folder, sync_folder


class SweepBusyError(LaresaError):
    """Another process runs this sweep."""


class FencedError(LaresaError):
    """A newer attempt trains this trial; this one must stop."""


def home() -> Path:
    """Where everything local lives: $LARESA_HOME, else .laresa in the current folder."""
    return Path(os.environ.get("LARESA_HOME", ".laresa")).resolve()


def make_home() -> None:
    """For its user alone. One that is there stays as it is: who made it may want to share it."""
    with contextlib.suppress(FileExistsError):
        home().mkdir(mode=0o700, parents=True)


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
        failpoint(f"delete {path}")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cant_write(path, error) from error

    def snapshot(self) -> SharedFolder:
        """The same files, where reading many is cheap; what comes later may be missing."""
        return self

    def claim(self, folder: Path) -> Path | None:
        """The attempt folder, made for the caller alone; None if somebody has it. mkdir is atomic over NFS, too."""
        failpoint(f"claim {folder}")
        try:
            folder.mkdir()
        except FileExistsError:
            return None
        except OSError as error:
            raise cant_write(folder, error) from error
        sync_folder(folder.parent)
        return folder

    @contextlib.contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Hold the sweep for this process; the kernel lets go when the process ends, however it ends."""
        try:
            if home() in folder.parents:
                make_home()
            make_folder(folder)
            file = (folder / "driver.lock").open("a+")
        except OSError as error:
            raise StorageError(f"storage {folder} can't be written ({error}): choose another --storage") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise busy_error(folder.name, file.read().strip() or "another process") from error
            with writing(folder / "driver.lock"):
                file.truncate(0)
                file.write(this_process())
                file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # who holds it is known by the lock, not by what stands in it
                    file.truncate(0)

    def driver(self, folder: Path) -> str:
        """Whether a driver holds the lock: "at work", "none", or "unknown" where the sweep is not here."""
        try:
            with (folder / "driver.lock").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "at work"
        except OSError:  # there is none, or it may not be asked
            return "unknown"
        return "none"

    @contextlib.contextmanager
    def for_tune(self, folder: Path) -> Iterator[str]:
        """A place that Tune's workers on all hosts can write to, though nothing in it matters."""
        for left in folder.glob("tune-*"):  # of a driver that was killed; this one holds the sweep alone
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="tune-", dir=folder) as scratch:
            yield scratch


SHARED_FOLDER = SharedFolder()


def this_process() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def busy_error(sweep: str, holder: str) -> SweepBusyError:
    return SweepBusyError(
        f"sweep {sweep!r} is being run by {holder}: "
        f"wait for it, watch it with `laresa status {sweep}`, or choose another --sweep"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """StorageError for what the disk refuses."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise cant_write(path, error) from error

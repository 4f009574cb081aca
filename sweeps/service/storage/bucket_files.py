"""A sweep's files in a bucket, for hosts that share no folder.

The bucket is the truth. A process mirrors what it touches in a scratch folder of its own (TMPDIR), which ends with it:
a file is written here first and then put there as one object, so that a reader sees all of it or none; what is missing
here is fetched. The training thread waits for its checkpoint to be put, so that an epoch that was reported is kept.

An attempt is `attempt-0002-<unique>`, with an object in it: no mkdir refuses the number to a second taker, but the
greatest name counts, and the other one sees it at its next check.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sweeps.service.storage.bucket import Bucket
from sweeps.service.storage.lease import Lease, leased, living
from sweeps.service.storage.shared_folder import SharedFolder

AT_ONCE = 16  # files fetched


class BucketFiles(SharedFolder):
    """Files under `root` that are the same under the bucket's URI."""

    def __init__(self, bucket: Bucket) -> None:
        scratch = tempfile.mkdtemp(prefix="laresa-")
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self.root = Path(scratch) / bucket.name
        self._bucket = bucket
        self._lease: Lease | None = None
        self._names: frozenset[str] | None = None  # of a snapshot
        self._origin: BucketFiles | None = None  # of a snapshot: it owns the scratch folder

    def place(self, path: Path) -> str:
        return self._bucket.below(self._name(path)).uri

    def has(self, path: Path) -> bool:
        name = self._name(path)
        return path.exists() or (self._bucket.has(name) if self._names is None else name in self._names)

    def glob(self, folder: Path, pattern: str) -> list[Path]:
        known = self._bucket.names(self._name(folder)) if self._names is None else self._names
        inside = [path.relative_to(folder).parts for name in known if folder in (path := self.root / name).parents]
        found = {"/".join(parts[: pattern.count("/") + 1]) for parts in inside}
        return [folder / name for name in found if fnmatch.fnmatchcase(name, pattern)]

    def fetch(self, path: Path) -> Path:
        if not path.exists() and (self._names is None or self._name(path) in self._names):
            self._bucket.fetch(self._name(path), path)
        return path

    def put(self, path: Path) -> None:
        if self._lease is not None:
            self._lease.check()
        self._bucket.put(path, self._name(path))

    def put_all(self, folder: Path) -> None:
        for path in folder.iterdir():
            if path.is_file():
                self.put(path)

    def delete(self, path: Path) -> None:
        super().delete(path)
        self._bucket.delete(self._name(path))

    def snapshot(self) -> BucketFiles:
        """One listing, and all outcomes fetched."""
        seen = copy.copy(self)
        seen._names, seen._origin = frozenset(self._bucket.names()), self
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(seen.fetch, seen.glob(self.root, "trials/*/outcome.json")))
        return seen

    def claim(self, folder: Path) -> Path:
        mine = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:12]}")
        self._bucket.write(self._name(mine / "taken"), "")
        mine.mkdir(parents=True)  # a method writes its checkpoint into a folder that is there, as in a shared one
        return mine

    @contextlib.contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Hold the sweep for this process, as far as a lease can: see there."""
        folder.mkdir(parents=True, exist_ok=True)
        with leased(self._bucket) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def driver(self, folder: Path) -> str:
        if living(self._bucket):
            return "at work"
        return "none" if self.has(folder / "plan.json") else "unknown"

    @contextlib.contextmanager
    def for_tune(self, folder: Path) -> Iterator[str]:
        self._bucket.delete_below("tune")
        try:
            yield self._bucket.below("tune").uri
        finally:
            self._bucket.delete_below("tune")

    def _name(self, path: Path) -> str:
        return "" if path == self.root else path.relative_to(self.root).as_posix()

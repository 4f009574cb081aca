"""A heartbeat lease: mutual exclusion of drivers where storage has no lock; an object that its holder keeps writing.

Who wants to drive puts an object of its own first and looks for others then. So of two who come at once at least one
sees the other; it may be that both do, and both are refused. Ages are told by the store's own clock, whatever those of
the hosts say.

What it can't guarantee: a driver that stands still for LEASE_SECONDS (suspended, cut off from the store) is taken for
dead and followed by another. When it goes on it finds its object gone, before it writes to the journal or the plan; but
between looking and writing lies a gap. Trials don't rely on the lease: attempts fence them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laresa.errors import StorageError
from sweeps.service.storage.bucket import Bucket
from sweeps.service.storage.shared_folder import busy_error, this_process

log = logging.getLogger("laresa.lease")
LEASE_SECONDS = 20.0  # without a sign, after which a driver counts as dead
RENEW_SECONDS = 5.0
LOOK_SECONDS = 1.0
FOLDER = "drivers"


class Lease:
    """One driver's heartbeat lease on a sweep in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._name = bucket, f"{FOLDER}/{uuid.uuid4().hex}"
        self._text = json.dumps({"holder": this_process(), "pid": os.getpid(), "machine": machine()})
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="laresa-lease")

    def write(self) -> None:
        self._bucket.write(self._name, self._text)

    def take(self) -> None:
        """Wait until no other driver may be alive; SweepBusyError once one gives a sign."""
        seen = dict[str, float]()
        while others := living(self._bucket, self._name):
            for name, renewed in others.items():
                holder = _fields(self._bucket, name).get("holder", "another process")
                if name not in seen:
                    log.warning("%s may still be at work: known within %.0f s", holder, LEASE_SECONDS)
                if seen.setdefault(name, renewed) != renewed:
                    raise busy_error(self._bucket.name, holder)
            time.sleep(LOOK_SECONDS)
            self.write()
        self._thread.start()

    def check(self) -> None:
        """SweepBusyError where another driver took this one for dead."""
        if not self._bucket.has(self._name):
            raise busy_error(
                self._bucket.name, f"another process, since this one gave no sign for {LEASE_SECONDS:.0f} s"
            )

    def release(self) -> None:
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()  # it might write once more
        with contextlib.suppress(StorageError):
            self._bucket.delete(self._name)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            with contextlib.suppress(StorageError):  # the next time, perhaps; `check` tells what came of it
                if not self._bucket.has(self._name):
                    return
                self.write()


@contextlib.contextmanager
def leased(bucket: Bucket) -> Iterator[Lease]:
    """Hold the lease of the sweep in this bucket."""
    lease = Lease(bucket)
    lease.write()
    try:
        lease.take()
        yield lease
    finally:
        lease.release()


def living(bucket: Bucket, mine: str | None = None) -> dict[str, float]:
    """The leases beside mine that may be alive, and when they were renewed. Whoever has one removes the dead.

    Without one there is no other clock than this host's.
    """
    renewed = bucket.names(FOLDER)
    now = time.time() if mine is None else renewed.pop(mine, time.time())
    dead = {name for name, when in renewed.items() if now - when > LEASE_SECONDS or _ended_here(bucket, name)}
    for name in dead if mine is not None else ():
        bucket.delete(name)
    return {name: when for name, when in renewed.items() if name not in dead}


def machine() -> str:
    """What names the numbering of processes: this boot of this host, this container."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return uuid.uuid4().hex  # like no other


def _ended_here(bucket: Bucket, name: str) -> bool:
    """Whether the holder was a process of this machine and is gone: then there is nothing to wait for."""
    fields = _fields(bucket, name)
    if fields.get("machine") != machine():
        return False
    try:
        os.kill(fields["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _fields(bucket: Bucket, name: str) -> dict[str, Any]:
    """What a lease says; nothing if it was given back meanwhile."""
    text = bucket.read(name)
    return {} if text is None else dict(json.loads(text))

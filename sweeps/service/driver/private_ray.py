"""A Ray of one sweep's own: on loopback, behind a token, in a folder that nobody else can enter.

Left to itself Ray 2.60 listens on all addresses, keeps one readable token for all its clusters in ~/.ray, and puts its
sockets into /tmp/ray, which everybody may write to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.private import write_private
from laresa.errors import StorageError
from sweeps.service.driver.interrupt import spared_by_the_terminal

LOOPBACK = "127.0.0.1"  # the only address by which all of Ray's servers listen on loopback alone
PREFIX = "laresa-ray-"
LONGEST = 16  # characters of the folder it is made in: a socket's path has 107 at most, of which 88 are below it
AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": None}  # None: not a cluster's


class PrivateRay:
    """The folder, token and environment of a Ray that this process starts. StorageError: no folder can be made."""

    def __init__(self) -> None:
        base = _base()
        _forget_dead(base)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # mode 0700
            self._lock = (self.folder / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            write_private(self.folder / "token", secrets.token_hex(32))
        except OSError as error:
            raise StorageError(f"{base} can't be written ({error.strerror}): Ray needs it; set RAY_TMPDIR") from error
        self._before = {name: os.environ.get(name) for name in AUTH}

    def start(self, **options: object) -> None:
        """As ray.init, of a Ray that ends with this process."""
        import ray

        _set({**AUTH, "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")})
        with _on_loopback(), spared_by_the_terminal():
            # Ray opens the folder it is given to everybody: it gets one inside.
            ray.init("local", _node_ip_address=LOOPBACK, _temp_dir=str(self.folder / "ray"), **options)

    def end(self) -> None:
        """After ray.shutdown: nothing of it is left."""
        _set(self._before)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _base() -> str:
    """Where Ray's sockets can lie: in the temporary folder, if its name is short enough."""
    found = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return found if len(found) <= LONGEST and os.path.isdir(found) else "/tmp"


def _forget_dead(base: str) -> None:
    """Remove what sweeps of this user's that were killed have left there."""
    for left in Path(base).glob(f"{PREFIX}*/lock"):
        with contextlib.suppress(OSError):  # another's, or one at work
            if left.parent.lstat().st_uid == os.getuid():
                with left.open("r+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left.parent, ignore_errors=True)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray turns 127.0.0.1 into the host's address in the network, except where it holds that there can be no cluster
    (by default on macOS)."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _set(environment: dict[str, str | None]) -> None:
    """Change the environment, and what Ray has already read of it."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()

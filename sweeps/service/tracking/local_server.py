"""The local MLflow server: sqlite, artifacts on disk, loopback, one worker.

Every user of the host reaches a port on loopback; so its address has a secret, which its home keeps. It is left
running for browsing, found again next time, and stopped by `laresa ui --stop`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from cluster import launch
from cluster.private import write_private
from laresa.errors import ConfigError, LaresaError
from sweeps.service.storage.shared_folder import home, make_home

SECRET = "LARESA_MLFLOW_SECRET"  # in the server's environment, which its user alone can read

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)  # server.json, or what is in it


def has_secret(uri: str) -> bool:
    """Whether it is the address of a local server, which no report or record may tell."""
    return re.match(r"http://127\.0\.0\.1:\d+/[\w-]{22}(/|$)", uri) is not None


class TrackingError(LaresaError, ConnectionError):
    """The tracking server does not answer, or refuses."""


@dataclass(frozen=True)
class Started:
    """A server as server.json keeps it. secret: "" is one of an earlier version, whose address had none."""

    pid: int
    port: int
    secret: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.secret}"


class LocalServer:
    """The one server of a LARESA_HOME; its address and process stand in <home>/mlflow/server.json (mode 0600)."""

    def __init__(self, root: Path | None = None) -> None:
        self.folder = (root or home()) / "mlflow"

    @property
    def store(self) -> str:
        """The database behind the server: readable without it."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def url(self) -> str | None:
        """Address of the running server, or None."""
        state = self._state()
        return state.url if state and self._serves(state) else None

    def known_url(self) -> str | None:
        """Its address as it was when it began, without a look at whether it still runs."""
        state = self._state()
        return state.url if state else None

    def launch(self) -> str:
        """Start the server if none runs, and return its address at once; `wait` until it answers."""
        with self._lock():
            if url := self.url():
                return url
            state = self._state()
            if state and self._alive(state.pid):
                if state.secret:
                    return state.url  # launched a moment ago by another process
                self._end(state.pid)  # an earlier version's, which everybody on the host can use
            port = _free_port(state.port if state else _wanted_port())
            # Whoever has our port now may be sent our secret by those who knew us there.
            kept = state.secret if state and state.port == port else ""
            started = Started(0, port, kept or secrets.token_urlsafe(16))
            started = replace(started, pid=self._spawn(started).pid)
            new = self.folder / ".server.json.new"
            write_private(new, json.dumps(asdict(started)))
            os.replace(new, self.folder / "server.json")
            return started.url

    def wait(self, url: str) -> str:
        """Its address, once it answers: another than `url` where somebody was quicker to take the port.

        TrackingError with the log's last lines if it does not start.
        """
        deadline, tries = time.monotonic() + launch.START_SECONDS, 3
        while not (state := self._state()) or not self._serves(state):
            ended = not state or not self._alive(state.pid)
            if ended and tries > 1:
                tries, url = tries - 1, self.launch()
            elif ended or time.monotonic() > deadline:
                raise TrackingError(
                    f"MLflow did not start at {url}. "
                    f"End of {self.folder}/server.log:\n{launch.last_lines(self.folder / 'server.log')}"
                )
            else:
                time.sleep(0.1)
        return state.url

    def stop(self) -> bool:
        """End the server this home started; False if none runs."""
        with self._lock():
            state = self._state()
            if not state or not self._alive(state.pid):
                return False
            self._end(state.pid)
            return True

    def _end(self, pid: int) -> None:
        os.killpg(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while self._alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._alive(pid):
            os.killpg(pid, signal.SIGKILL)

    def _state(self) -> Started | None:
        """None: none was started, or the file is damaged and another is started, or it is another user's."""
        try:
            found = json.loads((self.folder / "server.json").read_bytes())
            pid, port, secret = found["pid"], found["port"], found.get("secret", "")
        except UNREADABLE:
            return None
        known = type(pid) is int and type(port) is int and 0 < pid < 2**31 and 0 < port < 2**16
        known = known and isinstance(secret, str) and re.fullmatch(r"[\w-]*", secret, re.ASCII) is not None
        return Started(pid, port, secret) if known else None

    def _spawn(self, started: Started) -> subprocess.Popen[bytes]:
        options = ("--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts"))
        program = ("sweeps.service.tracking.schema", self.store)
        # laresa: sweeps.service.tracking.mlflow_app
        command = launch.command("laresa", "127.0.0.1", started.port, *options, program=program)
        return launch.spawn(command, launch.environment({SECRET: started.secret}), self.folder / "server.log")

    def _alive(self, pid: int) -> bool:
        """Whether `pid` is still our server, and not a process that took over its number."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            command = process.cmdline()  # empty for a moment, while it begins
            return (not command or self.store in command) and process.status() != psutil.STATUS_ZOMBIE
        return False

    def _serves(self, state: Started) -> bool:
        """Whether our server answers: it, and not the one of another home that was quicker to take the port."""
        ours = bool(state.secret) and self._alive(state.pid) and _listens(state.pid, state.port)
        return ours and launch.healthy(state.url)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            make_home()
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "server.lock").open("a")
        except OSError as error:
            raise TrackingError(
                f"{self.folder} can't be written ({error.strerror}): choose another LARESA_HOME"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _wanted_port() -> int:
    text = os.environ.get("LARESA_PORT", "5000")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError(f"LARESA_PORT={text!r}: expected a port number, 1 to 65535")
    return int(text)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise TrackingError("no free port on 127.0.0.1")


def _listens(pid: int, port: int) -> bool:
    """Whether a process or one of its children has the port; taken for granted where we may not look."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        held = [connection for process in family for connection in process.net_connections("tcp")]
    except psutil.Error as error:
        return isinstance(error, psutil.AccessDenied)
    return any(found.status == psutil.CONN_LISTEN and found.laddr.port == port for found in held)

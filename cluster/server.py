"""MLflow for a team: basic authentication with a password of its own, allowed hosts, artifacts through the server.

Everything it keeps lies in one folder: `mlflow.db` (unless MLFLOW_BACKEND_STORE_URI names a PostgreSQL), `artifacts`
(unless another destination is given), `auth.db`, and three secrets. Only the owner can read any of it, whoever made the
folder. A database's password comes from the environment alone: command lines are everybody's to read.
"""

from __future__ import annotations

import configparser
import ipaddress
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import launch
from cluster.private import UMASK, close, private_folder, write_private

PERMISSIONS = ("READ", "EDIT", "MANAGE", "NO_PERMISSIONS")


class ServerError(Exception):
    """The server can't be started as asked."""


@dataclass(frozen=True)
class AuthenticatedServer:
    """A server at http://host:port whose state lies in `folder`.

    allowed_hosts: names by which clients may call it, besides `host` and loopback.
    default_permission: what a user may do with another's sweep.
    proxy: address (or network) of the TLS proxy before it, the only one whose X-Forwarded-* headers are believed.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 5000
    allowed_hosts: tuple[str, ...] = ()
    artifacts: str | None = None
    default_permission: str = "READ"
    proxy: str | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def command(self) -> list[str]:
        """What is run. It holds no secret."""
        names = dict.fromkeys([*self.allowed_hosts, self.host, "localhost", "127.0.0.1"])
        hosts = [entry for name in names for entry in (name, f"{name}:{self.port}")]
        # A page of its own that asks for runs is "cross-origin" to MLflow, unless it is named.
        origins = [entry for name in names for entry in (f"https://{name}", f"http://{name}:{self.port}")]
        options = ("--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins))
        artifacts = ("--artifacts-destination", self.artifacts or f"{self.folder}/artifacts")
        return launch.command("laresa-auth", self.host, self.port, *options, *artifacts)

    def environment(self) -> dict[str, str]:
        """The server's environment: secrets are read, or made once, and travel in it."""
        if not self.host or (self.host in ("0.0.0.0", "::") and not self.allowed_hosts):
            raise ServerError(f"host {self.host!r}: name the address to listen on, or the --allowed-hosts")
        try:
            ipaddress.ip_network(self.proxy or "127.0.0.1")
        except ValueError as error:
            raise ServerError(f"proxy {self.proxy!r}: expected its address, or its network as 10.0.0.0/24") from error
        try:
            private_folder(self.folder)
            secret = self._secrets()
            close(self.folder)
        except PermissionError as error:
            raise ServerError(f"{error.filename} belongs to another user: give --folder one of your own") from error
        return launch.environment({**secret, "FORWARDED_ALLOW_IPS": self.proxy or ""})

    def _secrets(self) -> dict[str, str]:
        store = os.environ.get("MLFLOW_BACKEND_STORE_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"
        return {
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_AUTH_CONFIG_PATH": str(self._auth_config()),
            "MLFLOW_AUTH_ADMIN_USERNAME": os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME", "admin"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self._secret("MLFLOW_AUTH_ADMIN_PASSWORD", "admin_password"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._secret("MLFLOW_FLASK_SERVER_SECRET_KEY", "session_key"),
        }

    def healthy(self) -> bool:
        """Whether it answers. Needs no password."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return launch.healthy(f"http://{host}:{self.port}")

    def run(self) -> int:
        """Become the server, until a signal ends it (under systemd, in a container)."""
        environment = self.environment()
        os.umask(UMASK)
        os.execve(sys.executable, self.command(), environment)

    def detach(self) -> int | None:
        """Start it in the background and wait until it answers; its process id, None if it was up already."""
        if self.healthy():
            return None
        process = launch.spawn(self.command(), self.environment(), self.log, UMASK)
        deadline = time.monotonic() + launch.START_SECONDS
        while not self.healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                end = launch.last_lines(self.log)
                raise ServerError(f"MLflow did not start at {self.url}; end of {self.log}:\n{end}")
            time.sleep(0.2)
        return process.pid

    def _secret(self, variable: str, name: str) -> str:
        """From the environment, else from its file in the folder, made when there is none."""
        if given := os.environ.get(variable):
            return given
        path = self.folder / name
        if not path.exists() or not path.read_text().strip():
            write_private(path, secrets.token_urlsafe(24))
        if path.stat().st_mode & 0o077:
            raise ServerError(f"{path} can be read by others: chmod 600 {path}")
        return path.read_text().strip()

    def _auth_config(self) -> Path:
        """MLflow reads the permissions from a file; users live in the same PostgreSQL, or in a sqlite beside ours."""
        if self.default_permission not in PERMISSIONS:
            raise ServerError(f"default permission {self.default_permission!r}: one of {', '.join(PERMISSIONS)}")
        store = os.environ.get("MLFLOW_BACKEND_STORE_URI") or f"sqlite:///{self.folder / 'auth.db'}"
        config = configparser.ConfigParser(interpolation=None)
        config["mlflow"] = {
            "default_permission": self.default_permission,
            "database_uri": store,
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "auth_cache_ttl_seconds": "60",  # else every call hashes the password again
        }
        path = self.folder / "auth.ini"
        write_private(path, "")
        with path.open("w") as file:
            config.write(file)
        return path

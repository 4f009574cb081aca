"""An MLflow server as a process of its own: what the local server and a team's have in common."""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS = 120  # within which it answers


def command(app: str, host: str, port: int, *options: str, program: Sequence[str] = ("mlflow",)) -> list[str]:
    """What is run. app: the name of an entry point in the group mlflow.app. program: a module that is MLflow's."""
    return [
        *(sys.executable, "-m", *program, "server", "--app-name", app, "--host", host, "--port", str(port)),
        *options,
        *("--workers", "1"),  # with more, every call costs about 45 ms (uvicorn#3149)
    ]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, changed for a server: `more`, two processes instead of ten, and no other server to talk to."""
    ours = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    found = {**os.environ, **(more or {}), **ours}
    found.pop("MLFLOW_TRACKING_URI", None)
    return found


def spawn(line: list[str], variables: Mapping[str, str], log: Path, umask: int = -1) -> subprocess.Popen[bytes]:
    """Start it in the background, as the leader of a group; what it says is appended to `log`. umask: -1 keeps ours."""
    with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as said:
        return subprocess.Popen(
            line,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            umask=umask,
        )


def healthy(url: str, timeout: float = 3.0) -> bool:
    """Whether an MLflow server answers at `url`. Needs no password; a CA of its own is named as for MLflow's client."""
    try:
        known = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=timeout, context=known) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def last_lines(log: Path) -> str:
    """The end of what a server said."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])

"""A cluster.yaml for pretend hosts, and the user's own commands typed against it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tests.cluster.hosts import Hosts

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LARESA = str(BIN / "laresa")
T = TypeVar("T")


class Site:
    """A cluster.yaml edited for pretend hosts, as its user would, and the commands typed against it.

    edits: more text to replace in it.
    """

    def __init__(self, hosts: Hosts, edits: Mapping[str, str] = {}) -> None:
        self.hosts, self.yaml = hosts, hosts.state / "cluster.yaml"
        self.output = hosts.state / "output"
        text = (ROOT / "cluster.yaml").read_text()
        for theirs, ours in {
            "cluster_name: laresa": f"cluster_name: {hosts.prefix}",
            "192.168.1.10": hosts.address(0),
            "192.168.1.11, 192.168.1.12": ", ".join(hosts.address(i) for i in range(1, hosts.count)),
            "ssh_user: laresa": "ssh_user: root",
            "~/.ssh/id_ed25519": str(hosts.key),
            **edits,
        }.items():
            assert text.count(theirs) == 1, theirs
            text = text.replace(theirs, ours)
        self.yaml.write_text(text)
        # A pretend host reaches no package registry: the environment is this one, the code is what ray up brought.
        (hosts.shared / "site.sh").write_text(f"LARESA_VENV={BIN.parent}\n")
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "LARESA_"))
        }
        self.environment = {**kept, "PATH": f"{BIN}:{kept['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        self.output = self.hosts.state / f"output-{time.monotonic_ns()}"
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str]) -> None:
        """At once, with the ssh that it began; what ssh ran on the head loses its terminal."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(self, *command: str, timeout: float, expect: int | None = 0, **environment: str) -> str:
        process = self.start(*command, **environment)
        try:
            code = process.wait(timeout)
        finally:
            self.end(process)
        output = self.output.read_text()
        assert expect is None or code == expect, f"{' '.join(command)} ended with {code}\n{output[-6000:]}"
        return output

    @property
    def server(self) -> str:
        return f"http://{self.hosts.address(0)}:5000"

    def password(self) -> dict[str, str]:
        secret = (self.hosts.shared / "mlflow" / "admin_password").read_text()
        return {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": secret}


def nodes(hosts: Hosts) -> int:
    """How many hosts Ray counts as alive."""
    shown = hosts.sh(0, "ray status", check=False).stdout
    return sum(int(count) for count in re.findall(r"(\d+) local\.cluster\.node", shown.partition("Pending")[0]))


def wait(seconds: float, what: str, happened: Callable[[], T]) -> T:
    """What `happened` gives, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.5)
    return found

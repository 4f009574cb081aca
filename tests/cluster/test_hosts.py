"""The pretend hosts themselves: what a power cut, a pulled cable and an empty disk do, and that nothing stays."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster import hosts as pretend

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.alone,
    pytest.mark.skipif(pretend.missing() is not None, reason=str(pretend.missing())),
]


def traces(hosts: pretend.Hosts) -> str:
    shown = [["ip", "netns"], ["ip", "-br", "link"], ["ps", "-ww", "-eo", "args"]]
    text = "".join(subprocess.run(command, capture_output=True, text=True).stdout for command in shown)
    text += Path("/proc/mounts").read_text()
    return "\n".join(line for line in text.splitlines() if hosts.prefix in line or str(hosts.state) in line)


def test_failures_and_what_stays():
    with pretend.up(2) as hosts:
        assert traces(hosts)
        hosts.sh(0, "touch /here /mnt/laresa/shared; setsid -f sleep 1000 < /dev/null > /dev/null 2>&1")
        assert any("sleep 1000" in line for line in hosts.processes(0))
        assert not Path("/here").exists()
        assert hosts.sh(1, "ls /mnt/laresa; ls /here", check=False).stdout == "shared\n"
        hosts.kill(0)
        hosts.revive(0)
        assert hosts.sh(0, "ls /mnt/laresa; ls /here", check=False).stdout == "shared\n"
        assert not any("sleep 1000" in line for line in hosts.processes(0))
        hosts.cut(1)
        with pytest.raises(subprocess.TimeoutExpired):
            hosts.sh(1, "true", timeout=2)
        hosts.mend(1)
        assert hosts.sh(1, "hostname").stdout == "host1\n"
    assert traces(hosts) == ""


def test_nothing_stays_when_the_test_is_ended():
    """CI ends a run that takes too long with SIGTERM."""
    with pytest.raises(SystemExit), pretend.up(1) as hosts:
        signal.raise_signal(signal.SIGTERM)
    assert traces(hosts) == ""


def test_nothing_stays_when_the_test_fails():
    with pytest.raises(RuntimeError, match="inside"), pretend.up(1) as hosts:
        raise RuntimeError("inside")
    assert traces(hosts) == ""
    assert not hosts.state.exists()

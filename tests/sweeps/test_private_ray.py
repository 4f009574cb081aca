"""A sweep's own Ray: who can see it, join it, or have it join something else."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from laresa.errors import ConfigError
from sweeps.service.driver.private_ray import PREFIX, PrivateRay
from sweeps.service.planning.gpus import cluster_address

STRANGER = 65534  # nobody
HOLD = """
import ray
from sweeps.service.driver.connection import connect, disconnect
connect()
print(ray.get_runtime_context().gcs_address, ray.get(ray.remote(lambda: "trained").remote()), flush=True)
input()
disconnect()
"""
JOIN = """
import ray, sys
from ray._private import ray_constants
ray_constants.ENABLE_RAY_CLUSTER = False  # else it looks for 127.0.0.1 at the host's address in the network
ray.init(sys.argv[1], log_to_driver=False, logging_level=50)
print("joined")
"""
KNOCK = """
import socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), 2).close()
        print("in", port)
    except OSError:
        pass
"""


@dataclass(frozen=True)
class Held:
    """A Ray that `connect` has started in another process. base: where its folder lies."""

    process: subprocess.Popen[str]
    address: str
    base: Path

    @property
    def folder(self) -> Path:
        (found,) = self.base.glob(f"{PREFIX}*")
        return found

    def listening(self) -> list[tuple[str, int]]:
        """(address, port) of all that listens."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        found = [connection for process in family for connection in process.net_connections("tcp")]
        return sorted({(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN})


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A folder with a name that is short enough for Ray, which everybody may enter and write to, as /tmp."""
    place = Path(f"/tmp/lr-{os.getpid()}")
    place.mkdir(mode=0o1777)
    place.chmod(0o1777)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def held(base: Path) -> Iterator[Held]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": str(base), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", HOLD]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        address, said = process.stdout.readline().split()
        assert said == "trained"
        yield Held(process, address, base)
        process.communicate("\n", timeout=60)
        assert not list(base.glob(f"{PREFIX}*"))  # nothing is left
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_it_listens_on_loopback_alone(held: Held):
    found = held.listening()
    assert len(found) >= 4
    assert {address.removeprefix("::ffff:") for address, _ in found} == {"127.0.0.1"}


@pytest.mark.slow
def test_its_folder_and_token_are_its_users(held: Held):
    assert stat.S_IMODE(held.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((held.folder / "token").stat().st_mode) == 0o600


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_without_its_token_nobody_joins(held: Held, mode: str, tmp_path: Path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", JOIN, held.address], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode != 0
    assert "joined" not in done.stdout
    assert "nauthenticated" in done.stderr or "AuthenticationError" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
def test_another_user_reads_nothing_of_it(held: Held):
    for path in (held.folder, held.folder / "token", held.folder / "ray"):
        done = subprocess.run(["cat", str(path)], user=STRANGER, group=STRANGER, capture_output=True, text=True)
        assert "Permission denied" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2")
def test_another_host_reaches_nothing_of_it(held: Held):
    name = f"lr{os.getpid() % 100000}"
    made = subprocess.run(
        f"ip netns add {name} && ip link add {name}a type veth peer name {name}b netns {name} "
        f"&& ip addr add 10.213.7.1/24 dev {name}a && ip link set {name}a up "
        f"&& ip -n {name} addr add 10.213.7.2/24 dev {name}b && ip -n {name} link set {name}b up",
        shell=True,
        capture_output=True,
        text=True,
    )
    try:
        if made.returncode:
            pytest.skip(f"network namespaces can't be made here: {made.stderr.strip()}")
        ports = [str(port) for _, port in held.listening()]
        inside = ["ip", "netns", "exec", name, sys.executable, "-c", KNOCK, "10.213.7.1", *ports]
        assert subprocess.run(inside, capture_output=True, text=True, check=True).stdout == ""
    finally:
        subprocess.run(f"ip link del {name}a; ip netns del {name}", shell=True, capture_output=True)


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `ray start` notes its address."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir()
    path.write_text("10.0.0.9:6379\n")
    return path


def test_a_ray_that_this_user_started_is_joined(noted: Path, monkeypatch: pytest.MonkeyPatch):
    assert cluster_address() == "10.0.0.9:6379"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster_address() == "10.0.0.9:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert cluster_address() == "10.0.0.5:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address() is None


def test_a_link_is_not_followed(noted: Path, tmp_path: Path):
    noted.rename(tmp_path / "elsewhere")
    noted.symlink_to(tmp_path / "elsewhere")
    assert cluster_address() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="to write as another user needs root")
def test_nobody_elses_note_is_trusted(noted: Path, monkeypatch: pytest.MonkeyPatch):
    os.chown(noted, STRANGER, STRANGER)
    assert cluster_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=auto: this user has started no Ray here; expected HOST:PORT"):
        cluster_address()


def test_what_a_killed_sweep_left_is_removed_and_what_works_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = Path(f"/tmp/lf-{os.getpid()}")
    base.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    try:
        dead = base / f"{PREFIX}dead"
        dead.mkdir()
        (dead / "lock").touch()
        (base / f"{PREFIX}begun").mkdir()  # by another process, which has not locked it yet
        first = PrivateRay()
        second = PrivateRay()
        left = {path.name for path in base.iterdir()}
        assert left == {f"{PREFIX}begun", first.folder.name, second.folder.name}
        for one in (first, second):
            one.end()
        assert [path.name for path in base.iterdir()] == [f"{PREFIX}begun"]
    finally:
        shutil.rmtree(base)

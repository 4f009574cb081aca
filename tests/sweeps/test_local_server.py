"""The local server is told from another that answers at its address."""

from __future__ import annotations

import http.server
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from cluster.launch import healthy
from laresa.errors import ConfigError
from sweeps.service.storage.state import write_json
from sweeps.service.tracking import client as tracking
from sweeps.service.tracking.local_server import LocalServer, Started, TrackingError, has_secret
from sweeps.service.tracking.schema import make_store
from sweeps.service.tracking.sweep import Sweep


@pytest.fixture
def stranger() -> Iterator[int]:
    """Port of somebody's server, healthy as MLflow is."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.timeout(150)
def test_whoever_took_the_port_is_not_ours(stranger: int, tmp_path: Path):
    """Ours had not bound it yet, and ends because it can't: nothing is written to the other, and ours moves on, under
    another secret."""
    local = LocalServer(tmp_path)
    local.folder.mkdir()
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)", local.store])
    try:
        write_json(local.folder / "server.json", {"pid": ours.pid, "port": stranger, "secret": "s" * 22})
        assert healthy(f"http://127.0.0.1:{stranger}/{'s' * 22}")
        assert local.url() is None
        url = local.wait(f"http://127.0.0.1:{stranger}")
        assert url == local.url()
        assert f":{stranger}/" not in url
        assert "s" * 22 not in url
        local.stop()
        assert local.launch() == url  # at its own port it keeps its address: bookmarks go on
    finally:
        ours.kill()
        ours.wait()
        local.stop()


def test_a_server_of_an_earlier_version_is_ended_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It would answer everybody on the host."""
    local = LocalServer(tmp_path)
    local.folder.mkdir()
    command = [sys.executable, "-c", "import time; time.sleep(60)", local.store]
    earlier = subprocess.Popen(command, start_new_session=True)
    write_json(local.folder / "server.json", {"url": "http://127.0.0.1:1", "pid": earlier.pid, "port": 1})
    monkeypatch.setattr(local, "_spawn", lambda started: earlier)
    try:
        assert local.url() is None
        threading.Thread(target=earlier.wait, daemon=True).start()  # else it stays, as a zombie of ours
        assert has_secret(local.launch())
        assert earlier.wait(10) == -signal.SIGTERM
    finally:
        earlier.kill()


def test_one_that_can_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    local, begun = LocalServer(tmp_path), []

    def spawn(started: Started) -> subprocess.Popen[str]:
        begun.append(started.port)
        (local.folder / "server.log").write_text("no module named mlflow\n")
        return subprocess.Popen([sys.executable, "-c", "", local.store])

    monkeypatch.setattr(local, "_spawn", spawn)
    with pytest.raises(TrackingError, match=r"MLflow did not start at http://127(.|\n)*no module named mlflow"):
        local.wait(local.launch())
    assert len(begun) == 3  # its port may have been taken


def test_one_that_has_only_just_begun_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process has no command line for a moment within exec: held for dead, it would get a twin on its own port."""
    local, begun = LocalServer(tmp_path), []
    asked = psutil.Process.cmdline

    def spawn(started: Started) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", local.store]))
        return begun[-1]

    monkeypatch.setattr(local, "_spawn", spawn)
    try:
        url = local.launch()
        monkeypatch.setattr(psutil.Process, "cmdline", lambda process: [])
        assert local.launch() == url
        monkeypatch.setattr(psutil.Process, "cmdline", asked)
        assert local.launch() == url
        assert len(begun) == 1
    finally:
        for process in begun:
            process.kill()
            process.wait()


STRANGER = 65534  # nobody
KNOCK = """
import json, sys, urllib.error, urllib.request
for path in sys.argv[2:]:
    try:
        urllib.request.urlopen(f"{sys.argv[1]}{path}", timeout=20)
        print("in", path)
    except urllib.error.HTTPError as error:
        print(error.code, path)
"""
PATHS = ["/", "/health", "/version", "/api/2.0/mlflow/experiments/search?max_results=9", "/api/2.0/laresa/runs"]
PATHS += ["/ajax-api/2.0/mlflow/runs/get", "/static-files/index.html", "/get-artifact", "/graphql", "//health"]
PATHS += ["/%2e%2e/health"]


def test_without_its_secret_the_server_says_nothing(server: str):
    bare, _, secret = server.rpartition("/")
    assert len(secret) >= 22
    starts = ("", f"/{secret[:-1]}", f"/{secret}x", f"/{secret.swapcase()}")
    wrong = [start + path for start in starts for path in PATHS]
    knocked = subprocess.run([sys.executable, "-c", KNOCK, bare, *wrong], capture_output=True, text=True, check=True)
    assert [line.partition(" ")[0] for line in knocked.stdout.splitlines()] == ["404"] * len(wrong), knocked.stdout
    assert healthy(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
def test_another_user_reads_nothing_of_a_home_that_is_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    home = tmp_path / "home"
    monkeypatch.setenv("LARESA_HOME", str(home))
    local = LocalServer()
    monkeypatch.setattr(local, "_spawn", lambda started: SimpleNamespace(pid=os.getpid()))
    assert has_secret(local.launch())
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((local.folder / "server.json").stat().st_mode) == 0o600
    for path in (home, local.folder / "server.json"):
        done = subprocess.run(["cat", str(path)], user=STRANGER, group=STRANGER, capture_output=True, text=True)
        assert "Permission denied" in done.stderr


def test_who_shares_a_home_reads_the_records_without_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LARESA_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = LocalServer()
    make_store(local.store)
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert local.url() is None
    assert tracking.reading_uri(None) == local.store


def test_the_secret_is_on_no_command_line(server: str, laresa_home: Path):
    state = LocalServer(laresa_home)._state()
    family = [psutil.Process(state.pid), *psutil.Process(state.pid).children(recursive=True)]
    assert state.secret in server
    assert not any(state.secret in word for process in family for word in process.cmdline())


def test_no_report_links_to_a_secret_address(server: str):
    assert has_secret(server)
    assert Sweep("s", server, "1", tracking.client(server)).url is None
    assert not has_secret("http://127.0.0.1:5000")
    assert not has_secret("https://mlflow.example.org/behind/a-proxy-with-a-path12")


@pytest.mark.parametrize("kind", ["server", "database", "a folder of its own"])
def test_what_storage_gives_up_is_on_the_disk_first(
    kind: str, server: str, laresa_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[Path] = []
    monkeypatch.setattr(tracking, "sync_file", synced.append)
    monkeypatch.chdir(tmp_path)
    uri = server if kind == "server" else f"sqlite:///{tmp_path / 'mlflow.db'}"
    api = tracking.client(uri)
    where = (tmp_path / kind / "mlruns").as_uri()  # what is escaped in it, is not on the disk
    run = api.create_run(api.create_experiment("o", artifact_location=where) if " " in kind else "0")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    tracking.put_artifacts(uri, run.info.artifact_uri, [(weights, "checkpoint"), (weights, None)])
    assert [path.read_bytes() for path in synced] == [b"weights"] * 2
    assert [path.parent.name for path in synced] == ["checkpoint", "artifacts"]
    root = {"server": laresa_home, "database": tmp_path / "mlruns"}.get(kind, tmp_path / kind)
    assert synced[0].is_relative_to(root)


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1", ""])
def test_a_port_that_is_none_is_named(port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LARESA_PORT", port)
    with pytest.raises(ConfigError, match=f"LARESA_PORT='{port}': expected a port number"):
        LocalServer(tmp_path).launch()

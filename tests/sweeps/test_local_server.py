"""The local server is told from another that answers at its address."""

from __future__ import annotations

import http.server
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.launch import healthy
from laresa.errors import ConfigError
from sweeps.cli.report import close_links
from sweeps.service.storage.files import write_json
from sweeps.service.tracking import client as tracking
from sweeps.service.tracking.local_server import LocalServer, TrackingError


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
    """Ours had not bound it yet, and ends because it can't: nothing is written to the other, and ours moves on."""
    local = LocalServer(tmp_path)
    local.folder.mkdir()
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)", local.store])
    try:
        write_json(local.folder / "server.json", {"pid": ours.pid, "port": stranger})
        assert healthy(f"http://127.0.0.1:{stranger}")
        assert local.url() is None
        url = local.wait(f"http://127.0.0.1:{stranger}")
        assert url == local.url()
        assert f":{stranger}/" not in url
    finally:
        ours.kill()
        ours.wait()
        local.stop()


def test_one_that_can_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    local, begun = LocalServer(tmp_path), []

    def spawn(port: int) -> subprocess.Popen[str]:
        begun.append(port)
        (local.folder / "server.log").write_text("no module named mlflow\n")
        return subprocess.Popen([sys.executable, "-c", "", local.store])

    monkeypatch.setattr(local, "_spawn", spawn)
    with pytest.raises(TrackingError, match=r"MLflow did not start at http://127(.|\n)*no module named mlflow"):
        local.wait(local.launch())
    assert len(begun) == 2  # its port may have been taken the first time


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
    with local._lock():
        secret = local._secret()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((local.folder / "secret").stat().st_mode) == 0o600
    assert LocalServer()._secret() == secret
    for path in (home, local.folder / "secret"):
        done = subprocess.run(["cat", str(path)], user=STRANGER, group=STRANGER, capture_output=True, text=True)
        assert "Permission denied" in done.stderr
    (local.folder / "secret").write_bytes(b"\xff")
    assert LocalServer()._secret() not in (secret, "")


def test_the_secret_is_on_no_command_line(server: str, laresa_home: Path):
    state = LocalServer(laresa_home)._state()
    family = [psutil.Process(state.pid), *psutil.Process(state.pid).children(recursive=True)]
    assert state.secret in server
    assert not any(state.secret in word for process in family for word in process.cmdline())


def test_a_report_that_tells_the_secret_is_its_users(tmp_path: Path):
    (tmp_path / "report.html").write_text('<a href="http://127.0.0.1:5000/s3cret/#/experiments/1/runs/2">')
    (tmp_path / "report.tex").write_text("table")
    close_links(tmp_path, "http://127.0.0.1:5000/s3cret/#/experiments/1/runs?x")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("report.html", "report.tex")] == [0o600, 0o644]
    (tmp_path / "report.tex").write_text("http://team:5000/#/experiments/1")
    close_links(tmp_path, "http://team:5000/#/experiments/1/runs?x")
    assert stat.S_IMODE((tmp_path / "report.tex").stat().st_mode) == 0o644


@pytest.mark.parametrize("kind", ["server", "database"])
def test_what_storage_gives_up_is_on_the_disk_first(
    kind: str, server: str, laresa_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[Path] = []
    monkeypatch.setattr(tracking, "sync_file", synced.append)
    monkeypatch.chdir(tmp_path)
    uri = server if kind == "server" else f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = tracking.client(uri).create_run("0")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    tracking.put_artifacts(uri, run.info.artifact_uri, [(weights, "checkpoint"), (weights, None)])
    assert [path.read_bytes() for path in synced] == [b"weights"] * 2
    assert [path.parent.name for path in synced] == ["checkpoint", "artifacts"]
    assert synced[0].is_relative_to(laresa_home if kind == "server" else tmp_path / "mlruns")


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1", ""])
def test_a_port_that_is_none_is_named(port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LARESA_PORT", port)
    with pytest.raises(ConfigError, match=f"LARESA_PORT='{port}': expected a port number"):
        LocalServer(tmp_path).launch()

"""The local server is told from another that answers at its address."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.launch import healthy
from laresa.errors import ConfigError
from sweeps.service.storage.files import write_json
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


def test_whoever_took_the_port_is_not_ours(stranger: int, tmp_path: Path):
    """Ours had not bound it yet, and ends because it can't: nothing is written to the other."""
    local, url = LocalServer(tmp_path), f"http://127.0.0.1:{stranger}"
    local.folder.mkdir()
    (local.folder / "server.log").write_text("address already in use\n")
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)", local.store])
    try:
        write_json(local.folder / "server.json", {"url": url, "pid": ours.pid, "port": stranger})
        assert healthy(url)
        assert local.url() is None
        with pytest.raises(TrackingError, match=r"if its port was taken meanwhile(.|\n)*address already in use"):
            local.wait(url)
    finally:
        ours.kill()
        ours.wait()


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1", ""])
def test_a_port_that_is_none_is_named(port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LARESA_PORT", port)
    with pytest.raises(ConfigError, match=f"LARESA_PORT='{port}': expected a port number"):
        LocalServer(tmp_path).launch()

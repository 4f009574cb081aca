"""`laresa server` behind the nginx.conf that ships: who is let in, and whose word on the client's address counts."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from cluster.launch import healthy
from cluster.server import AuthenticatedServer, ServerError
from sweeps.service.tracking.bulk import PATH, Bulk
from tests.cluster.test_server import free_port, running

CONFIG = Path(__file__).parents[2] / "cluster" / "nginx.conf"
LACKING = [tool for tool in ("nginx", "openssl") if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
SEARCH = "/ajax-api/2.0/mlflow/runs/search"


@contextmanager
def proxy(folder: Path, upstream: str, port: int) -> Iterator[Path]:
    """nginx with the config that ships, its two addresses replaced; gives the certificate to trust."""
    (folder / "tls").mkdir(parents=True)
    key, cert = folder / "tls" / "key.pem", folder / "tls" / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert), *names]
    subprocess.run(made, check=True, capture_output=True)
    text = CONFIG.read_text()
    for theirs, ours in {"http://mlflow:5000": upstream, "listen 8443": f"listen 127.0.0.1:{port}"}.items():
        assert text.count(theirs) == 1, theirs
        text = text.replace(theirs, ours)
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield cert
    finally:
        process.terminate()
        process.wait(20)


class From(requests.adapters.HTTPAdapter):
    """Requests that come from one of loopback's addresses."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments, **options) -> None:
        super().init_poolmanager(*arguments, source_address=(self.address, 0), **options)


def session(address: str, cert: Path, password: str | None = None) -> requests.Session:
    made = requests.Session()
    for kind in ("http://", "https://"):
        made.mount(kind, From(address))
    made.trust_env = False  # another CA may be named in it
    made.verify, made.auth = str(cert), ("admin", password) if password else None
    made.headers["X-Forwarded-For"] = "203.0.113.9"  # a lie, whoever tells it
    return made


@pytest.mark.slow
@pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}: apt-get install nginx-light openssl")
def test_a_run_is_written_through_the_proxy_and_only_the_proxy_tells_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "only for this test")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "only for this test")
    port = free_port()
    url, page = f"https://localhost:{port}", {"Origin": f"https://localhost:{port}"}
    names = (f"localhost:{port}",)
    server = AuthenticatedServer(tmp_path / "mlflow", port=free_port(), allowed_hosts=names, proxy="127.0.0.1")
    with running(server), proxy(tmp_path / "proxy", server.url, port) as cert:
        assert not healthy(url)  # nobody vouches for this certificate yet
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(cert))
        deadline = time.monotonic() + 10
        while not healthy(url):
            assert time.monotonic() < deadline, (tmp_path / "proxy" / "log").read_text()
            time.sleep(0.1)
        stranger, admin = session("127.0.0.9", cert), session("127.0.0.9", cert, "only for this test")
        body = {"experiment_ids": ["0"]}
        assert stranger.get(f"{url}{PATH}").status_code == 401
        assert admin.get(f"{url}{PATH}").status_code == 200
        assert admin.get(f"{url}{PATH}", headers={"Host": "evil.example.org"}).status_code == 403
        assert admin.post(f"{url}{SEARCH}", json=body, headers=page).status_code == 200  # as MLflow's own page asks
        assert admin.post(f"{url}{SEARCH}", json=body, headers={"Origin": "https://evil.test"}).status_code == 403
        assert admin.get(f"http://localhost:{port}{PATH}").status_code == 400  # nothing is served without TLS

        api = MlflowClient(url)
        experiment = api.create_experiment("through TLS")
        (made,) = Bulk(api).post([{"experiment_id": experiment, "find": {"t": "1"}, "metrics": [["top1", 0.5, 1, 1]]}])
        (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
        api.log_artifact(made["run_id"], str(tmp_path / "large.bin"))
        assert api.get_run(made["run_id"]).data.metrics == {"top1": 0.5}
        fetched = api.download_artifacts(made["run_id"], "large.bin", str(tmp_path / "mlflow"))
        assert Path(fetched).stat().st_size == 3_000_000

        assert session("127.0.0.8", cert).get(f"{server.url}{PATH}").status_code == 401  # past the proxy
        said = server.log.read_text()
        assert "127.0.0.9:" in said
        assert "127.0.0.8:" in said
        assert "203.0.113.9" not in said


def test_a_proxy_that_is_no_address_is_named(tmp_path: Path):
    with pytest.raises(ServerError, match=r"proxy '\*': expected its address"):
        AuthenticatedServer(tmp_path, proxy="*").environment()

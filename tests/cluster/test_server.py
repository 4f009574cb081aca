"""The team server: who gets in, where the secrets lie, and that a backup brings everything back."""

from __future__ import annotations

import base64
import os
import signal
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.backup import main as backup
from cluster.server import AuthenticatedServer, ServerError
from sweeps.service.tracking.bulk import PATH, Bulk

JSON = {"Content-Type": "application/json"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(server: AuthenticatedServer) -> Iterator[None]:
    pid = server.detach()
    assert pid is not None
    assert server.detach() is None  # it is up already
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def status(
    server: AuthenticatedServer,
    password: str | None,
    path: str = "/api/2.0/mlflow/experiments/get?experiment_id=0",
    body: bytes | None = None,
    **headers,
) -> int:
    request = urllib.request.Request(f"{server.url}{path}", body, headers=headers)
    if password is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
    try:
        return int(urllib.request.urlopen(request, timeout=20).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    server, other = AuthenticatedServer(tmp_path / "one"), AuthenticatedServer(tmp_path / "two")
    first, second, elsewhere = server.environment(), server.environment(), other.environment()
    for name in ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        assert first[name] == second[name] != elsewhere[name]
        assert len(first[name]) >= 24
        assert first[name] not in " ".join(server.command())
    for name in ("admin_password", "session_key", "auth.ini"):
        assert stat.S_IMODE((tmp_path / "one" / name).stat().st_mode) == 0o600
    (tmp_path / "one" / "admin_password").chmod(0o644)
    with pytest.raises(ServerError, match="chmod 600"):
        server.environment()


def open_to_others(folder: Path) -> list[str]:
    """What in a folder, itself included, others than its owner may read or write."""
    found = [folder, *folder.rglob("*")]
    return [f"{path} {stat.filemode(path.stat().st_mode)}" for path in found if path.stat().st_mode & 0o077]


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("wide_umask")
def test_a_used_folder_is_closed_and_what_its_links_lead_to_is_left(tmp_path: Path):
    folder, elsewhere = tmp_path / "home" / "mlflow", tmp_path / "elsewhere.txt"
    (folder / "artifacts" / "1").mkdir(parents=True)
    for path in (folder / "mlflow.db", folder / "artifacts" / "1" / "model.safetensors", elsewhere):
        path.write_text("")
    (folder / "link").symlink_to(elsewhere)
    AuthenticatedServer(folder).environment()
    (folder / "link").unlink()
    assert open_to_others(folder) == []
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o666


def test_a_database_password_stays_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://u:hunter2@db/mlflow")
    server = AuthenticatedServer(tmp_path, artifacts="s3://bucket/path")
    assert server.environment()["MLFLOW_BACKEND_STORE_URI"] == "postgresql://u:hunter2@db/mlflow"
    assert "hunter2" not in " ".join(server.command())
    assert "s3://bucket/path" in server.command()
    assert "hunter2@db" in (tmp_path / "auth.ini").read_text()  # the users' store, mode 0600
    assert stat.S_IMODE((tmp_path / "auth.ini").stat().st_mode) == 0o600


def test_listening_everywhere_needs_the_names_of_the_server(tmp_path: Path):
    with pytest.raises(ServerError, match="allowed-hosts"):
        AuthenticatedServer(tmp_path, host="0.0.0.0").environment()
    named = AuthenticatedServer(tmp_path, host="0.0.0.0", allowed_hosts=("mlflow.example.org",))
    allowed = named.command()[named.command().index("--allowed-hosts") + 1].split(",")
    assert "mlflow.example.org" in allowed
    assert "*" not in allowed


def who_may_write_what(server: AuthenticatedServer, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the bulk endpoint as through MLflow's own API: a user her own runs, no other's; the administrator all."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.server import get_app_client

    api = MlflowClient(server.url)
    get_app_client("basic-auth", server.url).create_user("anna", "a password of hers")
    theirs = api.get_run(run).info.experiment_id
    write = [{"run_id": run, "tags": {"t": "1"}}]
    find = [{"experiment_id": theirs, "find": {"laresa.signature": "s"}}]
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "a password of hers")
        with pytest.raises(MlflowException, match="Permission denied"):
            api.set_tag(run, "t", "1")
        refused = Bulk(api).post(write + find)
        assert [answer.get("error_code") for answer in refused] == ["RESOURCE_DOES_NOT_EXIST"] * 2, refused
        hers = [{**find[0], "experiment_id": api.create_experiment("hers"), "tags": {"t": "1"}}]
        (made,) = Bulk(api).post(hers)
        assert api.get_run(made["run_id"]).data.tags["t"] == "1"
    assert "t" not in api.get_run(run).data.tags
    (written,) = Bulk(api).post([{"run_id": made["run_id"], "tags": {"t": "2"}}])
    assert "error_code" not in written
    assert api.get_run(made["run_id"]).data.tags["t"] == "2"


@pytest.mark.slow
@pytest.mark.usefixtures("wide_umask")
def test_who_gets_in_and_a_backup_brings_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    folder, kept = tmp_path / "mlflow", tmp_path / "kept"
    server = AuthenticatedServer(folder, port=free_port())
    (tmp_path / "note.txt").write_text("an artifact")
    with running(server):
        password = (folder / "admin_password").read_text()
        assert [status(server, p) for p in (None, "wrong", password)] == [401, 401, 200]
        assert status(server, password, Host="evil.example.org") == 403
        for body in (None, b"{}"):  # the bulk endpoint: asked whether it is there, and to write (what is malformed)
            good = 200 if body is None else 400
            found = [status(server, p, PATH, body, **JSON) for p in (None, "wrong", password)]
            assert found == [401, 401, good], body
            assert status(server, password, PATH, body, **JSON, Host="evil.example.org") == 403
        assert status(server, password, PATH, b"{}", **JSON, Origin="http://evil.example.org") == 403
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        client = MlflowClient(server.url)
        run = client.create_run(client.create_experiment("before")).info.run_id
        client.log_metric(run, "top1", 0.5)
        who_may_write_what(server, run, monkeypatch)
        client.log_artifact(run, str(tmp_path / "note.txt"))
        assert backup([str(folder), str(kept)]) == 0
        client.create_experiment("after")
        assert backup([str(folder), str(kept)]) == 1  # never two in one folder
    assert (folder / "auth.db").exists()
    assert open_to_others(folder) == open_to_others(kept) == []
    assert password not in (folder / "server.log").read_text()
    assert backup(["--restore", str(kept), str(folder)]) == 1  # never over what is there
    folder.rename(tmp_path / "lost")
    assert backup(["--restore", str(kept), str(folder)]) == 0
    with running(server):
        assert status(server, password) == 200  # users and password, too
        assert client.get_run(run).data.metrics == {"top1": 0.5}
        assert Path(client.download_artifacts(run, "note.txt", str(tmp_path))).read_text() == "an artifact"
        assert client.get_experiment_by_name("after") is None


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "no-such-database://somewhere/mlflow")
    with pytest.raises(ServerError, match="no-such-database"):
        AuthenticatedServer(tmp_path, port=free_port()).detach()

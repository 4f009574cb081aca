"""A bucket that is away in mid-run: waited for, a while; then the sweep ends, and goes on when it is back."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from laresa.errors import StorageError
from laresa.training import fit
from sweeps.service.tracking.sweep import Sweep
from sweeps.service.worker import session
from tests.sweeps.conftest import ablation
from tests.sweeps.inprocess import run_here, without_ray  # noqa: F401 (a fixture)
from tests.sweeps.test_disks import at, fresh_store

moto = pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask-cors")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200), pytest.mark.usefixtures("without_ray", "one_thread")]


class Store:
    """An S3 that can be stopped and started; its objects stay."""

    def __init__(self) -> None:
        self._server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = moto.ThreadedMotoServer(self.host, self.port, verbose=False)
        self._server.start()


@pytest.fixture(scope="module")
def running() -> Iterator[Store]:
    """For all tests: a process remembers where its buckets are."""
    store = Store()
    url = f"http://{store.host}:{store.port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ENDPOINT_URL", url), ("ACCESS_KEY_ID", "fake"), ("SECRET_ACCESS_KEY", "fake")):
            patch.setenv(f"AWS_{name}", value)
        urllib.request.urlopen(urllib.request.Request(f"{url}/away", method="PUT"))
        yield store
    store.stop()


@pytest.fixture
def store(running: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("LARESA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    fresh_store(tmp_path, "mlflow", monkeypatch)
    monkeypatch.setattr(session, "AWAY_STEP_SECONDS", 0.5)
    return running


def words(pictures: Path, place: str) -> list[str]:
    return [*ablation("away", pictures, "ce,ce+anchor", epochs=3), "--storage", f"s3://away/{place}"]


def assert_whole() -> None:
    records = Sweep.open("away").trials()
    assert [record.state for record in records] == ["finished"] * 2
    for record in records:
        undisturbed = fit(record.config, device="cpu").metrics
        same = {name: value for name, value in undisturbed.items() if name != "seconds/train"}
        assert {name: record.metrics[name] for name in same} == same


def test_a_bucket_that_comes_back_is_waited_for(pictures: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    def away() -> None:
        store.stop()
        threading.Timer(2.0, store.start).start()

    with at(1, away, monkeypatch, "checkpoint-000002"):
        result = run_here(words(pictures, "waited"))
    assert result.states == {"finished": 2}
    assert_whole()


def test_one_that_stays_away_ends_the_sweep(pictures: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session, "AWAY_SECONDS", 1.0)
    with pytest.raises(StorageError, match=r"s3://away/ended"), at(1, store.stop, monkeypatch, "checkpoint-000002"):
        run_here(words(pictures, "ended"))
    opened = Sweep.open("away")
    assert {run.info.status for run in opened.api.search_runs([opened.experiment_id])} == {"KILLED", "FAILED"}
    store.start()
    run_here(words(pictures, "ended"))
    assert_whole()

"""What trials report arrives once and whole: many at once at our server, one by one elsewhere, and both read alike."""

from __future__ import annotations

import itertools
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from cluster import launch
from laresa.config import TrialConfig
from laresa.measurement import Measurement
from sweeps import trials
from sweeps.service.storage.files import SweepFolder, TrialFolder
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking import bulk
from sweeps.service.tracking import write as tracking
from sweeps.service.tracking.async_writer import AsyncWriter
from sweeps.service.tracking.bulk import Bulk
from sweeps.service.tracking.client import client
from sweeps.service.tracking.deliver import Delivery, Tracker, deliver_all
from sweeps.service.tracking.thin import EPOCHS_TRACKED, at_once, thinned
from sweeps.service.tracking.write import TrialRun

# ---------------------------------------------------------------------- which epochs


@given(epochs=st.integers(1, 5000), data=st.data())
def test_at_most_200_epochs_are_tracked_with_the_first_the_best_and_the_last(epochs: int, data: st.DataObject):
    done = data.draw(st.integers(1, epochs), label="epochs until it stopped")
    best = data.draw(st.integers(1, done), label="best epoch")
    said = data.draw(st.booleans(), label="the trial says which was best")
    history = [Measurement(epoch, {"val/top1": float(epoch == best)}, 1.0) for epoch in range(1, done + 1)]
    kept = thinned(history, float(best) if said else None)
    numbers = [measurement.epoch for measurement in kept]
    assert len(numbers) <= EPOCHS_TRACKED
    assert {1, best, done} <= set(numbers)
    assert numbers == sorted(set(numbers))
    assert done > EPOCHS_TRACKED or len(numbers) == done, "a short history is tracked whole"
    sent = {measurement.epoch for measurement in history if at_once(measurement, epochs)}
    assert sent <= set(numbers), "what was sent during training is not among what is kept"
    gaps = [after - before for before, after in itertools.pairwise(numbers)]
    assert max(gaps, default=1) <= max(1, 2 * math.ceil(done / (EPOCHS_TRACKED - 2))), "evenly spaced"


# ---------------------------------------------------------------------- whether the server is ours


@contextmanager
def answering(answers: dict[str, tuple[int, str]]) -> Iterator[tuple[Bulk, list[str]]]:
    """A Bulk whose server gives the same (status, body) to every request of a method, and the methods asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answers[self.command]
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if body.startswith("{") else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Bulk(client(f"http://127.0.0.1:{server.server_port}")), asked
    server.shutdown()
    server.server_close()


HERE = (200, '{"laresa_bulk": 1}')


@pytest.mark.parametrize(
    "answer",
    [(404, ""), (405, ""), (401, ""), (403, ""), (500, ""), (200, "<html>"), (200, "{}"), (200, '{"laresa_bulk": 9}')],
    ids=str,
)
def test_a_server_that_is_not_ours_is_asked_once(answer: tuple[int, str]):
    with answering({"GET": answer}) as (asking, asked):
        assert asking.post([{"run_id": "a"}]) is None
        assert asking.post([{"run_id": "a"}]) is None
    assert asked == ["GET"]


@pytest.mark.parametrize(("status", "again"), [(404, False), (405, False), (401, True), (413, True), (500, True)])
def test_what_the_endpoint_cannot_do_is_left_to_mlflow(status: int, again: bool):
    with answering({"GET": HERE, "POST": (status, "")}) as (asking, asked):
        assert asking.post([{"run_id": "a"}]) is None
        assert asking.post([{"run_id": "a"}]) is None
    assert asked == ["GET", "POST"] + ["POST"] * again


def test_a_server_that_is_away_is_no_reason_to_write_otherwise():
    with answering({"GET": (503, ""), "POST": (503, "")}) as (asking, _), pytest.raises(MlflowException):
        asking.post([{"run_id": "a"}])
    with answering({"GET": HERE, "POST": (503, "")}) as (asking, _), pytest.raises(MlflowException):
        asking.post([{"run_id": "a"}])


def test_a_store_without_a_server_has_no_endpoint(tmp_path: Path):
    assert Bulk(client(f"sqlite:///{tmp_path / 'mlflow.db'}")).post([{"run_id": "a"}]) is None


# ---------------------------------------------------------------------- what arrives

COUNT, EPOCHS = 5, 260


def planned(seed: int) -> PlannedTrial:
    return PlannedTrial("ce", TrialConfig(subset="ce", epochs=EPOCHS, seed=seed))


def history(seed: int) -> list[Measurement]:
    """The best is one that would not be sent for its number; some values are none."""
    values = {3: math.nan, 5: math.inf, 7: -math.inf}
    best = 100 + 2 * seed
    rows = [
        {"val/top1": float(epoch == best), "train/loss": values.get(epoch, seed + 1 / epoch)}
        for epoch in range(1, EPOCHS + 1 - seed)
    ]
    return [Measurement(epoch, row, 0.5, 1000 + epoch) for epoch, row in enumerate(rows, 1)]


def concluded(folder: Path, trial: PlannedTrial) -> TrialFolder:
    """A trial's storage once it has ended; one of the trials failed."""
    stored, seed = SweepFolder(folder).trial(trial.key), trial.config.seed
    rows = [measurement.to_dict() for measurement in history(seed)]
    failed = {"state": "failed", "metrics": {}, "error": "ValueError: no\n\0 'more'"}
    finished = {"state": "finished", "metrics": {"test/top1": 0.25, "best_epoch": 100.0 + 2 * seed}, "error": None}
    outcome = {"history": rows, "provenance": {"laresa.host": "h"}, **(failed if seed == COUNT - 1 else finished)}
    stored.new_attempt().conclude(outcome)
    (stored.root / "config.json").write_text("{}")
    return stored


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Entries of each request to a bulk endpoint."""
    sent: list[int] = []
    request = Bulk._request

    def counting(self: Bulk, method: str, body: Any = None) -> Any:
        if method == "POST":
            sent.append(len(body["runs"]))
        return request(self, method, body)

    monkeypatch.setattr(Bulk, "_request", counting)
    return sent


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server, which knows nothing of ours."""
    folder = tmp_path_factory.mktemp("plain")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts")
    line = [part for part in launch.command("", "127.0.0.1", port, *store) if part not in ("--app-name", "")]
    process = launch.spawn(line, launch.environment(), folder / "log")
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + launch.START_SECONDS
    while not launch.healthy(url):
        assert process.poll() is None, launch.last_lines(folder / "log")
        assert time.monotonic() < deadline, launch.last_lines(folder / "log")
        time.sleep(0.1)
    yield url
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def report(url: str, sweep: str, folder: Path) -> None:
    """As a worker does it: all that it says waits before the first is sent."""
    opened = tracking.open_sweep(url, sweep, {})
    writer = AsyncWriter(url)
    runs = [TrialRun(opened, planned(seed), {"laresa.threads": "1"}) for seed in range(COUNT)]
    for run in runs:
        writer.open(run)
    for run in runs:
        writer.measured(run.signature, history(run.trial.config.seed))
    for run in runs:
        writer.conclude(run, concluded(folder, run.trial))
    writer.start()
    writer.stop(120)
    assert not writer.is_alive()


PLACE = ("mlflow.parentRunId", "laresa.sweep")  # tags in which two sweeps differ


def seen(url: str, sweep: str) -> dict[str, Any]:
    """All that a reader of MLflow sees of a sweep's trials."""
    api = client(url)
    runs = {
        run.data.tags["laresa.signature"]: run
        for run in api.search_runs([api.get_experiment_by_name(sweep).experiment_id])
        if run.data.tags["laresa.kind"] == "trial"
    }
    return {
        signature: {
            "params": run.data.params,
            "tags": {name: value for name, value in run.data.tags.items() if name not in PLACE},
            "latest": {name: repr(value) for name, value in run.data.metrics.items()},
            "status": run.info.status,
            "name": run.info.run_name,
            "ended": run.info.end_time is not None,
            "files": [found.path for found in api.list_artifacts(run.info.run_id)],
            "metrics": {
                name: [(m.step, m.timestamp, repr(m.value)) for m in api.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
        }
        for signature, run in runs.items()
    }


@pytest.mark.slow
def test_a_groups_reports_travel_together_and_read_as_if_one_by_one(
    server: str, plain: str, tmp_path: Path, posts: list[int]
):
    report(server, "together", tmp_path / "ours")
    assert posts == [COUNT] * 4, "opened, measured, found again and concluded, each in one request"
    report(plain, "together", tmp_path / "plain")
    assert len(posts) == 4, "MLflow's own server was sent what it does not know"
    ours = seen(server, "together")
    assert ours == seen(plain, "together")
    assert len(ours) == COUNT
    for seed in range(COUNT):
        assert SweepFolder(tmp_path / "ours").trial(planned(seed).key).delivered()
        steps = [step for step, _, _ in ours[planned(seed).signature]["metrics"]["val/top1"]]
        assert len(steps) <= EPOCHS_TRACKED
        assert {1, 100 + 2 * seed, EPOCHS - seed} <= set(steps)
    found = {record.config.seed: record for record in trials("together", with_history=True)}
    assert [len(found[seed].history) for seed in range(COUNT)] == [EPOCHS - seed for seed in range(COUNT)]
    assert repr(found[0].history) == repr(tuple(history(0))), "every epoch, from history.json"


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_loses_nothing(
    server: str, tmp_path: Path, posts: list[int], monkeypatch: pytest.MonkeyPatch
):
    report(server, "undisturbed", tmp_path / "undisturbed")
    request, tries = Bulk._request, itertools.count()

    def away(self: Bulk, method: str, body: Any = None) -> Any:
        """Two of four requests fail: one never arrives, of one the answer is lost."""
        which = next(tries) % 4
        if which == 0:
            raise MlflowException("away")
        answer = request(self, method, body)
        if which == 1:
            raise MlflowException("away")
        return answer

    monkeypatch.setattr(Bulk, "_request", away)
    monkeypatch.setattr(AsyncWriter, "BACKOFF_SECONDS", (0.0,))
    report(server, "disturbed", tmp_path / "disturbed")
    assert seen(server, "disturbed") == seen(server, "undisturbed")


@pytest.mark.slow
def test_what_is_refused_of_one_trial_is_sent_of_the_others_and_made_good_at_its_end(server: str, tmp_path: Path):
    """Somebody deletes a run in MLflow while its trial trains: in the end it has a new one, whole."""
    opened, api = tracking.open_sweep(server, "refused", {}), client(server)
    runs = [TrialRun(opened, planned(seed), {}) for seed in range(2)]
    writer = AsyncWriter(server)
    writer.start()
    for run in runs:
        writer.open(run)
    while len(writer._sent) < len(runs):
        time.sleep(0.01)
    deleted = writer._run_ids[runs[0].signature]
    api.delete_run(deleted)
    for run in runs:
        writer.measured(run.signature, history(run.trial.config.seed))
    for run in runs:
        writer.conclude(run, concluded(tmp_path, run.trial))
    writer.stop(60)
    found = {record.config.seed: record for record in trials("refused", with_history=True)}
    assert found[1].run_id == writer._run_ids[runs[1].signature]
    assert found[0].run_id != deleted
    for seed, record in found.items():
        assert record.state == "finished"
        kept = thinned(history(seed), 100.0 + 2 * seed)
        steps = [metric.step for metric in api.get_metric_history(record.run_id, "val/top1")]
        assert steps == [measurement.epoch for measurement in kept]


class DiedError(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before it", "after its effect"])
@pytest.mark.parametrize("request_number", [2, 4, 5])
def test_killed_between_two_batches_nothing_is_lost_or_twice(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_number: int, after: bool
):
    """Three requests of two trials open five, three more conclude them; the process ends at one of these."""
    sweep = f"killed-{request_number}-{after}"
    opened = tracking.open_sweep(server, sweep, {})
    deliveries = [
        Delivery(TrialRun(opened, planned(seed), {}), concluded(tmp_path, planned(seed))) for seed in range(COUNT)
    ]
    request, asked = Bulk._request, list[int]()

    def dying(self: Bulk, method: str, body: Any = None) -> Any:
        asked.append(method == "POST")
        last = sum(asked) == request_number
        if last and not after:
            raise DiedError
        answer = request(self, method, body)
        if last:
            raise DiedError
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "ENTRIES_A_REQUEST", 2)
        patch.setattr(Bulk, "_request", dying)
        with pytest.raises(DiedError):
            deliver_all(Tracker(client(server), Bulk(client(server))), deliveries)
    assert not any(delivery.folder.delivered() for delivery in deliveries), "noted before it was sent"
    api = client(server)
    again = deliver_all(Tracker(api, Bulk(api)), deliveries)
    assert len(set(again)) == COUNT
    whole = seen(server, sweep)
    other = tracking.open_sweep(server, f"{sweep}-undisturbed", {})
    for delivery in deliveries:
        answers = deliver_all(
            Tracker(api, None), [Delivery(TrialRun(other, delivery.trial.trial, {}), delivery.folder)]
        )
        assert all(isinstance(answer, str) for answer in answers), answers
    assert whole == seen(server, f"{sweep}-undisturbed")
    assert len(trials(sweep)) == COUNT

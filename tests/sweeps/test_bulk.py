"""The bulk endpoint: what it writes is what MLflow's own API would have written, once, or is refused as there."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from sweeps.service.tracking.bulk_server import accepted
from sweeps.service.tracking.bulk_write import write_runs

PSQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
FIND = {"laresa.signature": "s", "laresa.code": "c"}


def everybody(experiments: Any) -> Any:
    return experiments


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of its own on loopback; as user postgres, for it refuses root."""
    pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]'")
    if not PSQL:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    folder = Path("/tmp") / f"laresa-{os.getpid()}-postgres"
    folder.mkdir()
    shutil.chown(folder, "postgres", "postgres")
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    subprocess.run([*become, str(PSQL[0] / "initdb"), "-D", data, "-A", "trust"], check=True, capture_output=True)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [*become, str(PSQL[0] / "pg_ctl"), "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], check=True, capture_output=True)
    yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def store(uri: str, tmp_path_factory: pytest.TempPathFactory) -> SqlAlchemyStore:
    return SqlAlchemyStore(uri, str(tmp_path_factory.mktemp("artifacts")))


@pytest.fixture(scope="module")
def api(store: SqlAlchemyStore, uri: str) -> MlflowClient:
    return MlflowClient(uri)


def write(store: SqlAlchemyStore, *entries: dict[str, Any]) -> list[dict[str, Any]]:
    """Through JSON, as they come."""
    return write_as(everybody, store, *entries)


def write_as(permitted: Any, store: SqlAlchemyStore, *entries: dict[str, Any]) -> list[dict[str, Any]]:
    return write_runs(store, [accepted(entry) for entry in json.loads(json.dumps(entries))], permitted)


def opening(experiment_id: str, signature: str, **more: Any) -> dict[str, Any]:
    find = {"laresa.signature": signature, "laresa.code": "c"}
    new = {"tags": {"mlflow.runName": "a run", "laresa.arm": "ce"}, "params": {"lr": "0.1"}, "start_time": 1}
    return {"experiment_id": experiment_id, "find": find, "new": new, **more}


def seen(api: MlflowClient, run_id: str, keys: Any) -> dict[str, Any]:
    """All that a reader of MLflow sees of a run."""
    run = api.get_run(run_id)
    (found,) = api.search_runs([run.info.experiment_id], f"attributes.run_id = '{run_id}'")
    assert repr(found.data.metrics) == repr(run.data.metrics)
    history = {
        key: sorted((m.step, m.timestamp, repr(m.value)) for m in api.get_metric_history(run_id, key)) for key in keys
    }
    # SQLAlchemy sends no UPDATE from -0.0 to 0.0: of the latest value MLflow does not know a zero's sign.
    latest = {key: repr(value + 0.0) for key, value in run.data.metrics.items()}
    tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.runName"}
    return {"history": history, "latest": latest, "params": run.data.params, "tags": tags, "status": run.info.status}


values = st.floats() | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1e308, 5e-324])
points = st.tuples(st.sampled_from(["val/top1", "a b", "train/loss-1"]), values, st.integers(0, 3), st.integers(-1, 3))


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(points, max_size=8), min_size=1, max_size=3))
def test_metrics_are_those_that_mlflow_would_have_written(
    api: MlflowClient, store: SqlAlchemyStore, batches: list[list[tuple[str, float, int, int]]]
):
    """Twice in a request, twice in all, out of order, NaN and infinite: history and latest values read the same."""
    theirs, ours = (api.create_run("0").info.run_id for _ in range(2))
    for batch in (*batches, batches[0]):
        for name, value, timestamp, step in batch:
            api.log_batch(theirs, metrics=[Metric(name, value, timestamp, step)])
        assert "error_code" not in write(store, {"run_id": ours, "metrics": batch})[0]
    keys = {point[0] for batch in batches for point in batch}
    assert seen(api, ours, keys) == seen(api, theirs, keys)


def test_a_run_opened_measured_and_ended_reads_as_by_mlflow(api: MlflowClient, store: SqlAlchemyStore):
    experiment = api.create_experiment("whole")
    opened = opening(experiment, "s", status="RUNNING", tags={"laresa.state": "running"})
    (first,) = write(store, opened)
    (again,) = write(store, opened)
    assert (again, first["others"]) == (first, [])
    theirs = api.create_run(experiment, 1, {"mlflow.runName": "a run", "laresa.arm": "ce", **FIND}).info
    assert first["artifact_uri"] == theirs.artifact_uri.replace(theirs.run_id, first["run_id"])
    api.log_batch(theirs.run_id, params=[Param("lr", "0.1")], tags=[RunTag("laresa.state", "running")])
    end = {"metrics": [["m", 0.5, 7, 1]], "tags": {"laresa.state": "finished", "x": "y"}, "params": {"more": "1"}}
    (ended,) = write(store, {"run_id": first["run_id"], **end, "status": "FINISHED", "end_time": 99})
    api.log_batch(theirs.run_id, [Metric("m", 0.5, 7, 1)], [Param("more", "1")])
    for name, value in end["tags"].items():
        api.set_tag(theirs.run_id, name, value)
    api.set_terminated(theirs.run_id, "FINISHED", 99)
    assert seen(api, ended["run_id"], ["m"]) == seen(api, theirs.run_id, ["m"])
    ours = api.get_run(first["run_id"]).info
    for name in ("run_name", "user_id", "start_time", "end_time", "status", "lifecycle_stage", "experiment_id"):
        assert getattr(ours, name) == getattr(api.get_run(theirs.run_id).info, name), name
    (more,) = write(store, {**opened, "drop_tags": ["x"]})  # the oldest of both, and the other is named
    assert {more["run_id"], *more["others"]} == {theirs.run_id, first["run_id"]}
    assert "x" not in api.get_run(more["run_id"]).data.tags


def test_two_who_open_the_same_trials_at_once_get_the_same_runs(api: MlflowClient, store: SqlAlchemyStore):
    experiment, answers = api.create_experiment("at once"), []
    entries = [opening(experiment, str(index % 5)) for index in range(10)]
    threads = [threading.Thread(target=lambda: answers.append(write(store, *entries))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert len(api.search_runs([experiment])) == 5


REFUSED = {
    "a name": {"metrics": [["a\nb", 1.0, 1, 1]]},
    "no name": {"metrics": [[None, 1.0, 1, 1]]},
    "a long name": {"metrics": [["m" * 251, 1.0, 1, 1]]},
    "a value": {"metrics": [["m", "1.0", 1, 1]]},
    "a bool": {"metrics": [["m", True, 1, 1]]},
    "a time before time": {"metrics": [["m", 1.0, -1, 1]]},
    "half a step": {"metrics": [["m", 1.0, 1, 0.5]]},
    "a step of 65 bits": {"metrics": [["m", 1.0, 1, 2**64]]},
    "a point short": {"metrics": [["m", 1.0, 1]]},
    "a parameter that changes": {"params": {"lr": "0.2"}},
    "a long tag": {"tags": {"t" * 251: "x"}},
    "a tag without a name": {"tags": {"": "x"}},
    "a status": {"status": "DONE"},
    "an end": {"end_time": "now"},
    "something else": {"metrics": 7},
    "a tag that is a number": {"tags": {"t": 1}},
    "a run that is a list": {"run_id": [], "experiment_id": "0", "find": {"t": "1"}},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_mlflow_refuses_is_refused_whole_and_the_others_are_written(
    api: MlflowClient, store: SqlAlchemyStore, what: str
):
    runs = [api.create_run("0").info.run_id for _ in range(3)]
    api.log_param(runs[1], "lr", "0.1")
    good = {"metrics": [["m", 1.0, 1, 1]], "tags": {"t": "1"}}
    bad = {"run_id": runs[1], **good, **REFUSED[what]}
    first, refused, last = write(store, {"run_id": runs[0], **good}, bad, {"run_id": runs[2], **good})
    assert refused["error_code"] == "INVALID_PARAMETER_VALUE", refused
    assert (first["run_id"], last["run_id"]) == (runs[0], runs[2])
    assert [api.get_run(run).data.metrics for run in runs] == [{"m": 1.0}, {}, {"m": 1.0}]
    assert ["t" in api.get_run(run).data.tags for run in runs] == [True, False, True]


def test_runs_and_experiments_that_are_gone_are_refused(api: MlflowClient, store: SqlAlchemyStore):
    deleted, missing = api.create_run("0").info.run_id, "0" * 32
    api.delete_run(deleted)
    closed = api.create_experiment("closed")
    api.delete_experiment(closed)
    tags = {"tags": {"t": "1"}}
    answers = write(
        store, {"run_id": deleted, **tags}, {"run_id": missing, **tags}, opening(closed, "s"), opening("987654", "s")
    )
    codes = [answer["error_code"] for answer in answers]
    assert codes == ["INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", codes[1]]
    with pytest.raises(MlflowException) as theirs:
        api.set_tag(deleted, "t", "1")
    assert str(theirs.value) == answers[0]["message"]


def test_a_run_that_was_deleted_is_not_found_again(api: MlflowClient, store: SqlAlchemyStore):
    experiment = api.create_experiment("deleted")
    (first,) = write(store, opening(experiment, "s"))
    api.delete_run(first["run_id"])
    (second,) = write(store, opening(experiment, "s"))
    assert second["run_id"] != first["run_id"]


def test_nobody_learns_whether_what_is_forbidden_exists(api: MlflowClient, store: SqlAlchemyStore):
    run = api.create_run("0").info.run_id
    write(store, opening("0", "there"))
    gone = {"run_id": "0" * 32, "tags": {"t": "1"}}
    entries = [{**gone, "run_id": run}, gone, opening("0", "there"), opening("0", "missing"), opening("54321", "there")]
    answers = write_as(lambda experiments: (), store, *entries)
    assert [answer["error_code"] for answer in answers] == ["RESOURCE_DOES_NOT_EXIST"] * 5
    messages = [answer["message"] for answer in answers]
    assert messages[0] == messages[1].replace("0" * 32, run)
    assert messages[2] == messages[3] == messages[4].replace("54321", "0")
    assert "t" not in api.get_run(run).data.tags


def test_a_request_that_dies_halfway_leaves_nothing(
    api: MlflowClient, store: SqlAlchemyStore, monkeypatch: pytest.MonkeyPatch
):
    """Its rows are there at once, or not at all: here the last of them can't be written."""
    from sweeps.service.tracking import bulk_write

    experiment = api.create_experiment("halfway")
    (run,) = write(store, opening(experiment, "old"))
    monkeypatch.setattr(bulk_write, "_age", lambda row: 1 / 0)
    entries = [{"run_id": run["run_id"], "metrics": [["m", 1.0, 1, 1]], "status": "FAILED"}, opening(experiment, "new")]
    with pytest.raises(Exception, match="division"):
        write(store, *entries[1:], entries[0], entries[0] | {"metrics": [["m", 2.0, 2, 2]] * 2})
    assert seen(api, run["run_id"], ["m"])["history"] == {"m": []}
    assert [found.info.status for found in api.search_runs([experiment])] == ["RUNNING"]
    monkeypatch.undo()
    write(store, *entries)
    assert seen(api, run["run_id"], ["m"])["history"] == {"m": [(1, 1, "1.0")]}
    assert len(api.search_runs([experiment])) == 2

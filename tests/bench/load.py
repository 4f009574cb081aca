"""How much `laresa server` takes: trials of eight hosts at once, through our workers' own writers, and what is lost.

PostgreSQL has to hold 200 trials for ten minutes. On sqlite their number rises until a request is answered too late.
`python -m tests.bench load` does both; `load=60` spends 60 s instead of 600 on PostgreSQL, and a tenth of that a step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.server import free_port, lacks_postgres, postgres
from tests.bench.timing import row

HOSTS = 8  # processes
TRIALS = 25  # of a host, each with a writer of its own, as if it ran in a worker of its own
EPOCH_SECONDS = 3.0  # as long as a writer waits before it sends: each epoch is a request
METRICS = [f"m{i}" for i in range(12)]  # an epoch
STEPS = (1, 3, 6, 12, 25, 50)  # trials of a host, on sqlite
BOUND_SECONDS = 3.0  # slower than that a trial reports more than it gets rid of
PASSWORD = "of this benchmark only"


@dataclass(frozen=True)
class Outcome:
    """What a load did. latencies: seconds of each request that began while trials reported, in order."""

    hosts: int
    trials: int
    sent: int
    lost: int
    failed: int
    latencies: list[float]
    seconds: float
    concluded_seconds: float

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]

    def rows(self, name: str) -> list[dict[str, object]]:
        note = (
            f"{self.trials} trials of {self.hosts} processes for {self.seconds:.0f} s, "
            f"{len(METRICS) + 1} metrics an epoch of {EPOCH_SECONDS:.0f} s; "
            f"{self.sent:,} metrics, {self.lost} lost, {self.failed} requests failed; "
            f"all were concluded {self.concluded_seconds:.0f} s after the last epoch"
        )
        rows = [row(f"load, {name}", self.sent / self.seconds, "metrics/s", None, None, note)]
        for percent in (50, 95, 99):
            note = f"of {len(self.latencies):,} requests"
            rows.append(row(f"load, {name}, p{percent}", self.percentile(percent) * 1e3, "ms", None, None, note))
        return rows


def load(seconds: float = 600.0) -> list[dict[str, object]]:
    """Rows of both stores; PostgreSQL only where its programs and its driver are installed. AssertionError: a loss."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        if reason := lacks_postgres():
            print(f"    no PostgreSQL: {reason}", file=sys.stderr)
            return _rising(folder / "sqlite", seconds / 10)
        with postgres(folder / "postgres") as store, server(folder / "server", store) as url:
            outcome = trials_at_once(url, store, folder / "storage", HOSTS, TRIALS, seconds)
        assert (outcome.lost, outcome.failed) == (0, 0), outcome
        return [*outcome.rows("PostgreSQL"), *_rising(folder / "sqlite", seconds / 10)]


def _rising(folder: Path, seconds: float) -> list[dict[str, object]]:
    """Ever more trials on sqlite, until one is too many."""
    rows, held, end = list[dict[str, object]](), 0, "not reached"
    with server(folder) as url:
        for trials in STEPS:
            store = f"sqlite:///{folder}/mlflow.db"
            outcome = trials_at_once(url, store, folder / f"storage-{trials}", HOSTS, trials, seconds)
            rows += outcome.rows(f"sqlite, {outcome.trials} trials")
            if outcome.lost or outcome.failed or outcome.percentile(99) > BOUND_SECONDS:
                end = f"{outcome.trials} trials: p99 {outcome.percentile(99):.1f} s, {outcome.failed} requests failed, "
                end += f"{outcome.lost} metrics lost"
                break
            held = outcome.trials
    note = f"p99 of a request within {BOUND_SECONDS:.0f} s, nothing failed or lost; the end: {end}"
    return [row("load, sqlite holds", held, "trials", None, None, note), *rows]


@contextmanager
def server(folder: Path, store: str | None = None) -> Iterator[str]:
    """`laresa server` on loopback; this process and its children are its administrator."""
    from cluster.server import AuthenticatedServer

    settings = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    settings |= {"MLFLOW_TRACKING_USERNAME": "admin"} | ({"MLFLOW_BACKEND_STORE_URI": store} if store else {})
    before = dict(os.environ)
    os.environ.update(settings)
    started = AuthenticatedServer(folder, port=free_port())
    pid = started.detach()
    assert pid is not None
    try:
        yield started.url
    finally:
        os.killpg(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        os.environ.clear()
        os.environ.update(before)


def trials_at_once(url: str, store: str, folder: Path, hosts: int, trials: int, seconds: float) -> Outcome:
    """So many trials of so many hosts report for so long and end; then the database is asked what it has.

    store: the database behind the server. folder: the storage, whose name is the sweep's.
    """
    from sweeps.service.tracking.write import open_sweep

    sweep, epochs = open_sweep(url, folder.name, {}), max(1, round(seconds / EPOCH_SECONDS))
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(hosts), context.Queue()
    processes = [
        context.Process(target=_host, args=(sweep, folder, range(i * trials, (i + 1) * trials), epochs, ready, answers))
        for i in range(hosts)
    ]
    for process in processes:
        process.start()
    try:
        told = [answers.get(timeout=2 * seconds + 900) for _ in processes]
    finally:
        for process in processes:
            process.join(30)
            process.terminate()  # does nothing to one that has ended
    run_ids = {trial: run_id for host in told for trial, run_id in host["run_ids"].items()}
    outcome = Outcome(
        hosts=hosts,
        trials=hosts * trials,
        sent=hosts * trials * len(reported(0, epochs)),
        lost=lost(store, run_ids, epochs),
        failed=sum(host["failed"] for host in told),
        latencies=[took for host in told for took in host["latencies"]],
        seconds=epochs * EPOCH_SECONDS,
        concluded_seconds=max(host["concluded"] for host in told),
    )
    for said in outcome.rows(store.partition(":")[0]):
        print(f"    {said['name']}: {said['value']:.0f} {said['unit']}, {said['note']}", file=sys.stderr, flush=True)
    return outcome


def lost(store: str, run_ids: Mapping[int, str], epochs: int) -> int:
    """How many of the points that the trials reported the database lacks, or has with another value."""
    from sqlalchemy import create_engine, text

    count, engine = 0, create_engine(store)
    with engine.connect() as connection:
        for trial, run_id in run_ids.items():
            query = text("SELECT key, step, value FROM metrics WHERE run_uuid = :run_id")
            kept = {(key, step): value for key, step, value in connection.execute(query, {"run_id": run_id})}
            count += sum(kept.get(point) != value for point, value in reported(trial, epochs).items())
    engine.dispose()
    return count


def reported(trial: int, epochs: int) -> dict[tuple[str, int], float]:
    """Every point of a trial: those of its epochs, and what it concludes with."""
    measured = {(name, m.epoch): value for m in _history(trial, epochs) for name, value in m.metrics.items()}
    took = {("seconds/epoch", epoch): EPOCH_SECONDS for epoch in range(1, epochs + 1)}
    return measured | took | {("test/top1", epochs): 0.5}


def _history(trial: int, epochs: int) -> list[Any]:
    from laresa.measurement import Measurement

    return [
        Measurement(e, {name: 1000 * trial + e + i / 16 for i, name in enumerate(METRICS)}, EPOCH_SECONDS, 1000 + e)
        for e in range(1, epochs + 1)
    ]


# ---------------------------------------------------------------------- in a process of its own


def _host(sweep: Any, folder: Path, trials: range, epochs: int, ready: Any, answers: Any) -> None:
    """Trials that report an epoch every EPOCH_SECONDS, evenly spread in time, and conclude when all have ended."""
    from laresa.config import TrialConfig
    from sweeps.service.storage.files import SweepFolder
    from sweeps.service.study import PlannedTrial
    from sweeps.service.tracking.async_writer import AsyncWriter
    from sweeps.service.tracking.write import TrialRun

    seen, runs = _watch_requests(), {}
    for trial in trials:
        run = TrialRun(sweep, PlannedTrial("ce", TrialConfig(subset="ce", epochs=epochs, seed=trial)), {})
        writer = AsyncWriter(sweep.uri)
        writer.start()
        writer.open(run)
        runs[trial] = run, writer, _history(trial, epochs)
    while any(run.signature not in writer._sent for run, writer, _ in runs.values()):
        time.sleep(0.05)
    ready.wait(600)
    started = time.monotonic()
    for epoch in range(epochs):
        for place, (run, writer, history) in enumerate(runs.values()):
            time.sleep(max(0.0, started + EPOCH_SECONDS * (epoch + place / len(runs)) - time.monotonic()))
            writer.measured(run.signature, [history[epoch]])
    time.sleep(max(0.0, started + EPOCH_SECONDS * epochs - time.monotonic()))
    ended = time.monotonic()
    for run, writer, history in runs.values():
        stored, metrics = SweepFolder(folder).trial(run.trial.key), {"test/top1": 0.5}
        outcome = {"state": "finished", "metrics": metrics, "history": [m.to_dict() for m in history], "error": None}
        stored.new_attempt().conclude({**outcome, "provenance": {}})
        writer.conclude(run, stored)
    for _, writer, _ in runs.values():
        writer.stop(600)
    answer = {
        "run_ids": {trial: writer._run_ids[run.signature] for trial, (run, writer, _) in runs.items()},
        "latencies": [took for begun, took, _ in seen if started <= begun < ended],
        "failed": sum(not good for _, _, good in seen),
        "concluded": time.monotonic() - ended,
    }
    answers.put(answer)


def _watch_requests() -> list[tuple[float, float, bool]]:
    """(begun, seconds, answered well) of every request that this process makes from now on."""
    import requests

    seen, send = list[tuple[float, float, bool]](), requests.Session.send

    def timed(*arguments: Any, **options: Any) -> requests.Response:
        begun, good = time.monotonic(), False
        try:
            answer = send(*arguments, **options)
            good = answer.ok
            return answer
        finally:
            seen.append((begun, time.monotonic() - begun, good))

    requests.Session.send = timed  # type: ignore[method-assign]
    return seen

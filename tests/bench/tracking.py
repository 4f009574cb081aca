"""How fast what trials report reaches MLflow: a trial's reports, a group's, and whole trials."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig
from laresa.measurement import Measurement
from tests.bench.timing import row, seconds

NAMES = [f"m{i}" for i in range(12)]
HEADS, EPOCHS = 64, 100


def tracking() -> list[dict[str, object]]:
    """One local server for all rows, and every delivery read back."""
    from sweeps.service.tracking.local_server import LocalServer

    with tempfile.TemporaryDirectory() as folder:
        server = LocalServer(Path(folder))
        url = server.launch()
        server.wait(url)
        try:
            return [*_one_trial(url, folder), _group(url), _whole(url, Path(folder))]
        finally:
            server.stop()


def _one_trial(url: str, folder: str) -> list[dict[str, object]]:
    """Results delivered a second: our path against Ray's MLflowLoggerCallback, the same reports, the same server."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from sweeps.service.tracking.client import client

    count, more = 40, 25  # MLflowLoggerCallback is so slow that it gets fewer
    (trial,) = _runs(url, "ours", 1)
    writer, enqueue = _opened_writer(url, [trial]), []
    started = time.perf_counter()
    for epoch in range(1, more * count + 1):
        measurement = _measurement(0, epoch)
        before = time.perf_counter()
        writer.measured(trial.signature, [measurement])
        enqueue.append(time.perf_counter() - before)
    writer.stop(120)
    ours = more * count / (time.perf_counter() - started)
    callback = MLflowLoggerCallback(tracking_uri=url, experiment_name="theirs")
    callback.setup()
    other = type("Trial", (), {"trial_id": "t", "config": {"a": 1}, "logdir": folder, "__hash__": lambda s: 1})()
    callback.log_trial_start(other)
    started = time.perf_counter()
    for epoch in range(1, count + 1):
        callback.log_trial_result(epoch, other, {**dict.fromkeys(NAMES, epoch / 7), "training_iteration": epoch})
    theirs = count / (time.perf_counter() - started)
    assert len(client(url).get_metric_history(writer._run_ids[trial.signature], "m0")) == more * count
    note = f"reports of {len(NAMES)} metrics; until all are delivered. Baseline: MLflowLoggerCallback. Goal 20x"
    wait, goal = statistics.median(enqueue) * 1e3, "median time the training thread spends; baseline: goal 1 ms"
    return [
        row("tracking throughput", ours, "results/s", theirs, ours / theirs, note),
        row("reporting inside an epoch", wait, "ms", 1.0, wait, goal),
    ]


def _group(url: str) -> dict[str, object]:
    """Metrics delivered a second of 64 heads that report in turn: in bulk, against log_batch a report and a run."""
    from sweeps.service.tracking.client import client
    from sweeps.service.tracking.deliver import Change, Tracker, points

    api = client(url)
    trials, size = _runs(url, "group", HEADS), len(NAMES) + 1
    writer = _opened_writer(url, trials)
    started = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        for head, trial in enumerate(trials):
            writer.measured(trial.signature, [_measurement(head, epoch)])
    writer.stop(300)
    ours = HEADS * EPOCHS * size / (time.perf_counter() - started)
    by_mlflow = Tracker(api, None)
    ids = [api.create_run("0").info.run_id for _ in trials]
    few = 4
    reports = [Change(ids[head], points([_measurement(head, e)])) for e in range(1, few + 1) for head in range(HEADS)]
    before = len(reports) * size / seconds(lambda: by_mlflow.write(reports))
    rest = [
        Change(ids[head], points(_measurement(head, e) for e in range(few + 1, EPOCHS + 1))) for head in range(HEADS)
    ]
    a_run = HEADS * (EPOCHS - few) * size / seconds(lambda: by_mlflow.write(rest))
    for theirs, trial in zip(ids, trials, strict=True):
        found = writer._run_ids[trial.signature]
        assert api.get_run(found).data.metrics == api.get_run(theirs).data.metrics
        assert _points(api, found, NAMES[:1]) == _points(api, theirs, NAMES[:1])
    note = f"{HEADS} trials of {EPOCHS} epochs, {size} metrics; read back equal. Baseline: MLflow's API, a request a "
    note += f"report, as before; with one a run for all epochs {a_run:.0f}. Goal 10x"
    return row("metrics of a group", ours, "metrics/s", before, ours / before, note)


def _whole(url: str, folder: Path) -> dict[str, object]:
    """Trials a second, from nothing to concluded: opened, measured, ended, their files there."""
    from sweeps.service.storage.files import SweepFolder
    from sweeps.service.tracking.bulk import Bulk
    from sweeps.service.tracking.client import client
    from sweeps.service.tracking.deliver import Delivery, Tracker, deliver_all

    api, rates = client(url), list[float]()
    for name, tracker in (("bulk", Tracker(api, Bulk(api))), ("single", Tracker(api, None))):
        deliveries = []
        for head, run in enumerate(_runs(url, name, HEADS)):
            stored = SweepFolder(folder / name).trial(run.trial.key)
            history = [_measurement(head, epoch).to_dict() for epoch in range(1, 31)]
            outcome = {"state": "finished", "metrics": {"test/top1": 0.5}, "history": history, "provenance": {}}
            stored.new_attempt().conclude({**outcome, "error": None})
            deliveries.append(Delivery(run, stored))
        rates.append(HEADS / seconds(lambda d=deliveries, t=tracker: deliver_all(t, d)))  # type: ignore[misc]
        assert all(delivery.folder.delivered() for delivery in deliveries), name
    note = f"{HEADS} trials of 30 epochs, one file each. Baseline: MLflow's API"
    return row("trials opened, measured and concluded", rates[0], "trials/s", rates[1], rates[0] / rates[1], note)


def _runs(url: str, sweep: str, count: int) -> list[Any]:
    from sweeps.service.study import PlannedTrial
    from sweeps.service.tracking.write import TrialRun, open_sweep

    opened = open_sweep(url, sweep, {})
    configs = [TrialConfig(subset="ce", epochs=EPOCHS, seed=seed) for seed in range(count)]
    return [TrialRun(opened, PlannedTrial("ce", config), {}) for config in configs]


def _opened_writer(url: str, trials: Sequence[Any]) -> Any:
    from sweeps.service.tracking.async_writer import AsyncWriter

    writer = AsyncWriter(url)
    writer.start()
    for trial in trials:
        writer.open(trial)
    while len(writer._sent) < len(trials):
        time.sleep(0.01)
    return writer


def _measurement(head: int, epoch: int) -> Measurement:
    return Measurement(epoch, dict.fromkeys(NAMES, head + epoch / 7), 0.1, 1000 + epoch)


def _points(api: Any, run_id: str, names: Sequence[str]) -> list[list[tuple[int, int, float]]]:
    histories = [api.get_metric_history(run_id, name) for name in names]
    return [sorted((point.step, point.timestamp, point.value) for point in history) for history in histories]

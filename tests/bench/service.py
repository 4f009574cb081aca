"""The service at size: driver cost a trial, queries over thousands of runs, search that pays."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from laresa.config import SUBSETS, TrialConfig
from laresa.measurement import Measurement
from tests.bench.timing import row

EPOCHS = 5


def driver() -> list[dict[str, object]]:
    """Milliseconds of the driver's own time a no-op trial of five reports, and its memory, at three sizes."""
    import ray

    rows: list[dict[str, object]] = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
    try:
        costs = {count: _no_op_sweep(count) for count in (100, 1000, 3000)}
    finally:
        ray.shutdown()
    first = costs[100][0]
    for count, (milliseconds, wall, mebibytes) in costs.items():
        note = f"{EPOCHS} reports each, {wall:.0f} s wall, driver grew {mebibytes:.0f} MiB; baseline: at 100 trials"
        rows.append(row(f"driver cost at {count} trials", milliseconds, "ms/trial", first, milliseconds / first, note))
    return rows


def _no_op_sweep(count: int) -> tuple[float, float, float]:
    """(driver CPU ms a trial, wall seconds, MiB the driver grew)."""
    from ray import tune

    from sweeps.service.driver import tune as tuning
    from sweeps.service.driver.progress import ProgressDisplay
    from sweeps.service.driver.spending import Spending
    from sweeps.service.search.sources import FixedPlan
    from sweeps.service.storage.files import SweepFolder
    from sweeps.service.study import PlannedTrial, RunOptions
    from sweeps.service.tracking.write import SweepRun

    class NoOp(tune.Trainable):
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.begin(new_config)
            return True

        def setup(self, config: dict[str, Any], plugins: object) -> None:
            self.begin(config)

        def begin(self, config: dict[str, Any]) -> None:
            self.epoch = 0
            (self.trial,) = config["trials"]

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {}  # as TuneTrial

        def step(self) -> dict[str, Any]:
            self.epoch += 1
            state = "fenced" if self.epoch == EPOCHS else "running"
            row = {"val/top1": 0.5, "epoch": self.epoch, "state": state, "done": self.epoch == EPOCHS}
            return {**row, "trials": [{**row, "signature": self.trial["signature"]}]}

    original, tuning.TuneTrial = tuning.TuneTrial, NoOp
    plan = FixedPlan(PlannedTrial("ce", TrialConfig(subset="ce", seed=seed)) for seed in range(count))
    silent = ProgressDisplay("bench", 0, count)
    silent.say = lambda line: None  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, cpu, wall = _resident(), time.process_time(), time.perf_counter()
            sweep = SweepRun("http://127.0.0.1:9", "bench", "0", "0")
            place, options = SweepFolder(Path(folder)), RunOptions(gpus_per_trial=0.0)
            tuning.run_trials(plan, sweep, place, options, {}, silent, Spending(place, options))
            spent = time.process_time() - cpu
            return spent / count * 1e3, time.perf_counter() - wall, _resident() - before
    finally:
        tuning.TuneTrial = original


def query() -> list[dict[str, object]]:
    """best and trials over stores of thousands of runs, through a server."""
    from reports.build import build_report
    from sweeps import best, trials
    from sweeps.service.tracking.local_server import LocalServer
    from sweeps.service.tracking.write import open_sweep

    with tempfile.TemporaryDirectory() as folder:
        server = LocalServer(Path(folder))
        url = server.launch()
        server.wait(url)
        try:
            large, small = (open_sweep(url, name, {}).experiment_id for name in ("large", "small"))
            with sqlite3.connect(Path(folder) / "mlflow" / "mlflow.db", timeout=60) as database:
                _fill(database, large, 9000)  # in random order: neither the first nor the last is the best
                _fill(database, small, 1000, Path(folder) / "mlflow" / "artifacts")
            best("small", tracking_uri=url)  # the server's own first time
            started = time.perf_counter()
            found = best("large", tracking_uri=url)
            top = time.perf_counter() - started
            assert found.metrics["best/val/top1"] == 8999 / 10000
            started = time.perf_counter()
            records = trials("small", tracking_uri=url)
            listing = time.perf_counter() - started
            assert len(records) == 1000
            started = time.perf_counter()
            whole = trials("small", tracking_uri=url, with_history=True)
            build_report(whole, Path(folder) / "report", latents=lambda record: None, title="small")
            reporting = time.perf_counter() - started
        finally:
            server.stop()
    return [
        row("best over 10,000 runs", top, "s", 1.0, top, "a sweep of 9,000 in a store of 10,000; baseline: goal 1 s"),
        row("trials of a sweep of 1,000", listing, "s", 3.0, listing / 3, "baseline: goal 3 s"),
        row("report of 1,000 runs", reporting, "s", 20.0, reporting / 20, "histories fetched, no latents; goal 20 s"),
    ]


def _fill(database: sqlite3.Connection, experiment: str, count: int, artifacts: Path | None = None) -> None:
    """Finished runs as the tracker writes them, straight into the database: thousands by the API would take minutes.

    artifacts: the server's folder of them, for each run's history of 20 epochs.
    """
    columns = [name for _, name, *_ in database.execute("PRAGMA table_info(runs)")]
    for position, index in enumerate(random.Random(0).sample(range(count), count)):
        run_id = uuid.uuid4().hex
        config = TrialConfig(subset=SUBSETS[index % 8], seed=index)
        values: dict[str, Any] = dict.fromkeys(columns)
        values |= {"run_uuid": run_id, "name": f"run {index}", "experiment_id": int(experiment), "status": "FINISHED"}
        values["artifact_uri"] = f"mlflow-artifacts:/{experiment}/{run_id}/artifacts"
        if artifacts is not None:
            place = artifacts / experiment / run_id / "artifacts"
            place.mkdir(parents=True)
            curve = [
                Measurement(e, {"val/top1": index / 10000 * e / 20, "train/loss": 1 / e}, 0.1) for e in range(1, 21)
            ]
            (place / "history.json").write_text(json.dumps([measurement.to_dict() for measurement in curve]))
        values |= {"source_type": "LOCAL", "user_id": "bench", "start_time": position, "lifecycle_stage": "active"}
        marks = ", ".join("?" * len(columns))
        database.execute(f"INSERT INTO runs ({', '.join(columns)}) VALUES ({marks})", [values[c] for c in columns])
        tags = {"kind": "trial", "state": "finished", "signature": config.signature(), "arm": config.subset}
        database.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
            [(f"laresa.{key}", value, run_id) for key, value in tags.items()],
        )
        database.executemany(
            "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
            [(k, v if isinstance(v, str) else json.dumps(v), run_id) for k, v in config.to_dict().items()],
        )
        metrics = {"best/val/top1": index / 10000, "test/top1": index / 20000, "best_epoch": 3.0}
        database.executemany(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, 1, 1, 0, ?)",
            [(key, value, run_id) for key, value in metrics.items()],
        )


def _resident() -> float:
    fields = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in fields if line.startswith("VmRSS"))) / 1024

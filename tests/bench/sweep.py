"""Whole sweeps: efficiency on the demo, against the same ablation from plain parts, and a worker's memory."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from pathlib import Path

from tests.bench.processes import laresa, python
from tests.bench.timing import row


def efficiency() -> list[dict[str, object]]:
    """The demo, from nothing to its report, in a home of its own."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            out = laresa(["demo"], Path(folder))
        finally:
            wall = time.perf_counter() - started
            laresa(["ui", "--stop"], Path(folder))
        found = re.search(r"time +([\d.]+) s for the sweep, ([\d.]+) s of it training on (\d+) workers", out)
        assert found, out
        sweep, training, workers = (float(part) for part in found.groups())
        note = (
            f"{training:.0f} s inside training on {workers:.0f} workers, sweep {sweep:.0f} s. Goal 0.97, at least 0.90"
        )
        return [
            row("demo sweep efficiency", training / (workers * sweep), "ratio", None, None, note),
            row("demo from command to report", wall, "s", 180, wall / 180, "baseline: the 3 minutes it may take"),
        ]


def against_plain_parts() -> list[dict[str, object]]:
    """The ablation, one replicate: our service and tests/bench/plain.py, one after the other.

    Neither makes a report, both use the same MLflow server, which runs already.
    """
    code = """
import argparse
from sweeps import ablation
from sweeps.options import run_options
from sweeps.service.driver.runner import run
parser = argparse.ArgumentParser()
ablation.add_options(parser)
args = parser.parse_args(["--tune", "0", "--sweep", "ours", "--seeds", "0"])
run(ablation.build(args), run_options(args))
"""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        url = laresa(["ui"], home).strip()
        try:
            started = time.perf_counter()
            python(["-c", code], home)
            ours = time.perf_counter() - started
            started = time.perf_counter()
            out = python(["-m", "tests.bench.plain", url], home)
            plain = time.perf_counter() - started
        finally:
            laresa(["ui", "--stop"], home)
    note = "arms of emoji120, one replicate, from command to end, without a report. Lower is better"
    arms = len(json.loads(out.splitlines()[-1]))
    return [row("ablation", ours, "s", plain, ours / plain, f"{arms} {note}")]


def accuracy() -> list[dict[str, object]]:
    """Cross-entropy, five replicates: the test top-1 of our training, and of the same from plain parts."""
    code = """
import argparse, json, statistics, torch
from laresa.training import fit
from ray import tune
from sweeps import ablation
from tests.bench import plain
torch.set_num_threads(1)
parser = argparse.ArgumentParser()
ablation.add_options(parser)
study = ablation.build(parser.parse_args(["--tune", "0", "--seeds", "0,1,2,3,4", "--subsets", "ce"]))
told, pairs = [], []
tune.report = told.append
for trial in study.trials():
    plain.objective({"trial": trial.config.to_dict()})
    pairs.append((fit(trial.config, device="cpu").metrics["test/top1"], told[-1]["test/top1"]))
print(json.dumps(pairs))
"""
    with tempfile.TemporaryDirectory() as folder:
        pairs = json.loads(python(["-c", code], Path(folder)).splitlines()[-1])
    ours, theirs = (statistics.mean(side) for side in zip(*pairs, strict=True))
    error = statistics.stdev(one - other for one, other in pairs) / len(pairs) ** 0.5
    note = f"test top-1 of ce, mean of {len(pairs)} replicates; standard error of the difference {error:.3f}"
    return [row("accuracy", ours, "top-1", theirs, ours / theirs, note)]


def memory() -> list[dict[str, object]]:
    """Resident memory of a worker in a trial, above a Ray worker that has imported torch."""
    code = """
import json, os, sys, ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=40)
def resident():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))) / 1024
@ray.remote(num_cpus=1)
class Worker:
    def bare(self):
        import torch
        torch.zeros(1)
        return resident()
    def trial(self):
        import torch
        torch.set_num_threads(1)
        import sweeps.service.worker.trial
        from sweeps.service.tracking.client import client
        client("http://127.0.0.1:9")
        from laresa.config import TrialConfig
        from laresa.training import train
        from sweeps.recipes import DEFAULT, merged
        next(train(TrialConfig(**merged(DEFAULT, "emoji120", None).fields), device="cpu"))
        return resident()
worker = Worker.remote()
print(json.dumps([ray.get(worker.bare.remote()), ray.get(worker.trial.remote())]))
"""
    with tempfile.TemporaryDirectory() as folder:
        bare, trial = json.loads(python(["-c", code], Path(folder)).splitlines()[-1])
    note = f"MiB resident in a trial of the demo, over a Ray worker with torch imported: {trial - bare:.0f} MiB more"
    return [row("worker memory", trial, "MiB", bare, trial / bare, note)]

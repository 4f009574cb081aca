"""Several objectives: what a search by them is told, refuses, and answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from laresa.measurement import SCORES
from sweeps import best, pareto
from sweeps.service.search.optuna_source import OptunaSource
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial, Replicate, Search
from sweeps.service.tracking.best import front
from tests.reports.handmade import record
from tests.sweeps.conftest import QUICK, laresa

BOTH = ("val/top1", "val/nn_hit")


def search(**changes) -> Search:
    space = {"lr": FloatDistribution(1e-4, 1e-2, log=True)}
    fields = {"name": "s", "base": TrialConfig(subset="ce"), "space": space, "trials": 4, "objectives": BOTH}
    return Search(**{**fields, "replicate": Replicate(0, 0), **changes})


def conclude(folder: SweepFolder, trial: PlannedTrial, **metrics: float) -> dict:
    outcome = {"state": "finished", "metrics": {f"best/val/{name}": value for name, value in metrics.items()}}
    history = [{"epoch": 1, "metrics": {"val/top1": 0.1}, "seconds": 0.1, "timestamp": 1}]
    folder.trial(trial.key).new_attempt().conclude({**outcome, "history": history})
    return folder.trial(trial.key).outcome()


def test_the_front_is_what_nothing_dominates():
    def tried(top1: float, loss: float, lr: float):
        return record(metrics={"best/val/top1": top1, "best/val/loss": loss}, lr=lr)

    good, small, between, worse, equal = (
        tried(0.9, 2.0, 0.1),
        tried(0.5, 0.5, 0.2),
        tried(0.7, 1.0, 0.3),
        tried(0.7, 1.1, 0.4),
        tried(0.9, 2.0, 0.5),
    )
    assert front([worse, small, good, between, equal], ("val/top1", "val/loss")) == [good, equal, between, small]
    assert front([worse, small, good], ("val/loss",)) == [small]  # a loss is better when it is small
    assert front([], BOTH) == []


def test_a_front_equals_the_naive_one():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 6, (60, 3)) / 6
    names = ("val/top1", "val/nn_hit", "val/mistake_severity")
    records = [
        record(metrics={f"best/{n}": v for n, v in zip(names, row, strict=True)}, lr=0.001 * (i + 1))
        for i, row in enumerate(points)
    ]
    gains = points * [1, 1, -1]
    naive = {
        records[i].signature
        for i in range(60)
        if not any(all(gains[j] >= gains[i]) and any(gains[j] > gains[i]) for j in range(60))
    }
    assert {found.signature for found in front(records, names)} == naive


def test_a_study_is_told_every_objective_and_its_front_survives_a_restart(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    source = OptunaSource(search(objectives=("val/top1", "val/mistake_severity")), folder)
    first, second, dominated, unmeasured = (source.next().trials[0] for _ in range(4))
    source.concluded(first, conclude(folder, first, top1=0.9, mistake_severity=2.0))
    source.concluded(second, conclude(folder, second, top1=0.5, mistake_severity=1.0))
    source.concluded(dominated, conclude(folder, dominated, top1=0.4, mistake_severity=1.5))
    source.concluded(unmeasured, conclude(folder, unmeasured, top1=0.99))
    again = OptunaSource(search(objectives=("val/top1", "val/mistake_severity")), folder)
    assert {t.user_attrs["signature"] for t in again.study.best_trials} == {first.signature, second.signature}
    assert [t.state.name for t in again.study.trials] == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "nsga2", "qmc"])
def test_these_samplers_take_two_objectives(name: str, tmp_path: Path):
    source = OptunaSource(search(sampler=name, trials=6), SweepFolder(tmp_path))
    for i in range(6):
        (trial,) = source.next().trials
        source.concluded(trial, conclude(SweepFolder(tmp_path), trial, top1=i / 10, nn_hit=1 - i / 10))
    assert source.spent.told == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ("val/top_1",)}, "unknown objective 'val/top_1'; did you mean 'val/top1'"),
        ({"objectives": ("test/top1",)}, "the test split chooses nothing"),
        ({"objectives": ("val/top1", "val/top1")}, "each once"),
        ({"scheduler": "asha"}, "--scheduler asha stops trials by val/top1 alone"),
        ({"objectives": ("val/nn_hit",), "scheduler": "median"}, "--scheduler median"),
        ({"sampler": "cmaes"}, "cmaes takes one objective"),
    ],
)
def test_what_cant_be_searched_by_is_named(changes, message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        OptunaSource(search(**changes), SweepFolder(tmp_path))


@pytest.mark.slow
def test_a_sweep_by_two_objectives_answers_with_its_front(server: str, pictures: Path, tmp_path: Path):
    options = ["--sweep", "both", "--dataset", str(pictures), "--epochs", "3", *QUICK]
    ran = laresa("run", "search", *options, "--trials", "6", "--objective", ",".join(BOTH), cwd=tmp_path)
    assert "Pareto front of val/top1 and val/nn_hit" in ran.stdout
    assert (tmp_path / "build/both/figures/search-pareto.svg").exists()
    found = pareto("both")
    assert [r.signature for r in found] == [r.signature for r in pareto("both", BOTH)]
    assert found[0].metrics["best/val/top1"] == best("both").metrics["best/val/top1"]
    assert {f"best/val/{name}" for name in SCORES} <= set(found[0].metrics)
    listed = json.loads(laresa("best", "both", "--json", cwd=tmp_path).stdout)
    assert [row["signature"] for row in listed] == [r.signature for r in found]
    lowest = best("both", "test/mistake_severity").metrics["test/mistake_severity"]
    assert lowest == min(r.metrics["test/mistake_severity"] for r in pareto("both", ["test/mistake_severity"]))
    with pytest.raises(ConfigError, match="no finished trial of 'both' has the metric 'val/top_1'"):
        pareto("both", ["val/top_1", "val/loss"])

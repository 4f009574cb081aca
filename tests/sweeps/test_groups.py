"""A group on a worker, without Ray: one method and one checkpoint, a run, a history and an outcome for each trial."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from laresa import plugins
from laresa.config import TrialConfig
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.progress import ProgressDisplay
from sweeps.service.driver.tune import SourceSearch
from sweeps.service.storage.files import SweepFolder, TrialFolder
from sweeps.service.study import Group, PlannedTrial
from sweeps.service.tracking.write import SweepRun
from sweeps.service.worker.device import VISIBLE
from sweeps.service.worker.plugins import Shipment, pack, unpack
from sweeps.service.worker.trial import TrialContext, TuneTrial

FUSED = """
import torch
from laresa import checkpoint
from laresa.measurement import Measurement
from laresa.methods import Result
from laresa.seeds import generator

class Fused:
    '''All configurations in the rows of one tensor, each with steps of its own; the first breaks at lr > 1.'''

    groups = True

    def __init__(self, configs, data, device):
        self.configs, self.rows_KD, self.histories = configs, torch.zeros(len(configs), 4), [[] for _ in configs]

    @property
    def finished(self):
        return all(len(h) >= c.epochs for c, h in zip(self.configs, self.histories))

    def epoch(self):
        return [self._one(k) for k in range(len(self.configs))]

    def _one(self, k):
        config, number = self.configs[k], len(self.histories[k]) + 1
        if number > config.epochs:
            return None
        if config.lr > 1 and number == 3:
            raise RuntimeError("the first is broken")
        self.rows_KD[k] += config.lr * torch.rand(4, generator=generator("cpu", config.seed, number, "step"))
        value = float(self.rows_KD[k].sum())
        self.histories[k].append(Measurement(number, {"val/top1": value, "train/loss": -value}, 0.5, 1000 * number))
        return self.histories[k][-1]

    def save(self, path):
        checkpoint.save(path, {"rows": self.rows_KD}, {"kept": [[m.to_dict() for m in h] for h in self.histories]})

    def restore(self, path):
        tensors, state = checkpoint.load(path)
        self.rows_KD = tensors["rows"]
        self.histories = [[Measurement.from_dict(m) for m in h] for h in state["kept"]]

    def result(self):
        return [
            Result(c, tuple(h), len(h), {"best/val/top1": h[-1].metrics["val/top1"]}, {"row": row.clone()}, None)
            for c, h, row in zip(self.configs, self.histories, self.rows_KD)
        ]

METHODS = {"fused": Fused}
"""
EPOCHS = (3, 5)  # of the two: the first ends before the other


class Writer:
    """In place of AsyncWriter: what was sent, by signature."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Any]] = {}

    def open(self, run: Any) -> None:
        self.sent.setdefault(run.signature, []).append("open")

    def measured(self, signature: str, measurements: Any) -> None:
        self.sent[signature] += [measurement.epoch for measurement in measurements]

    def conclude(self, run: Any, folder: TrialFolder) -> None:
        self.sent[run.signature].append(folder.outcome()["state"])


class Two:
    """Two trials of one group in a storage of their own, and workers for them."""

    def __init__(self, folder: Path, pictures: Path, lr: float) -> None:
        folder.mkdir()
        self.sweep = SweepFolder(folder)
        self.sweep.write("plan.json", {})
        self.context = TrialContext(SweepRun("u", "toy", "0", "0"), self.sweep.place, 1.0, {})
        fields = {"dataset": str(pictures), "method": "fused", "subset": "ce"}
        configs = [TrialConfig(**fields, seed=k, epochs=n, lr=(lr, 0.1)[k]) for k, n in enumerate(EPOCHS)]
        self.trials = tuple(PlannedTrial("ce", config, "search") for config in configs)
        self.stored = [self.sweep.trial(trial.key) for trial in self.trials]

    def worker(self, config: dict[str, Any] | None = None) -> TuneTrial:
        """config: as Tune has it from the driver."""
        made = object.__new__(TuneTrial)  # without Tune around it
        made._writer = Writer()
        trials = {"trials": [trial.to_dict() for trial in self.trials], "context": self.context.to_dict()}
        made.setup(config or trials, pack(plugins.loaded()))
        return made

    def states(self) -> list[str]:
        return [stored.outcome()["state"] for stored in self.stored]


@pytest.fixture
def two(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Iterator[Callable[..., Two]]:
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "fused.py"
    path.write_text(FUSED)
    with plugins.isolated():
        plugins.load(str(path))
        yield lambda name, lr=0.1: Two(tmp_path / name, pictures, lr)
        unpack(Shipment())


def to_the_end(worker: TuneTrial) -> list[dict[str, Any]]:
    results = [worker.step()]
    while not results[-1]["done"]:
        results.append(worker.step())
    return results


def test_each_trial_has_its_own_outcome_and_run_and_the_first_their_checkpoint(two: Callable[..., Two]):
    whole = two("whole")
    worker = whole.worker()
    worker.step()
    assert [len(stored.checkpoints()) for stored in whole.stored] == [1, 0]
    *_, fourth, fifth, last = to_the_end(worker)
    assert [row["epoch"] for row in fourth["trials"]] == [3, 4]  # the first stands still, and is still told of
    assert [row["seconds"] for row in fourth["trials"]] == [0.0, 0.5]
    assert (fifth["epoch"], fifth["state"], fifth["done"]) == (5, "running", False)
    assert [row["state"] for row in last["trials"]] == whole.states() == ["finished", "finished"]
    assert [[row["epoch"] for row in stored.outcome()["history"]] for stored in whole.stored] == [
        [1, 2, 3],
        [1, 2, 3, 4, 5],
    ]
    assert [worker._writer.sent[trial.signature] for trial in whole.trials] == [
        ["open", 1, 2, 3, "finished"],
        ["open", 1, 2, 3, 4, 5, "finished"],
    ]
    for stored in whole.stored:
        left = {path.name for path in stored.root.rglob("*") if path.is_file()}
        assert left == {"config.json", "outcome.json", "model.safetensors"}


@pytest.mark.parametrize("epochs", [2, 4, 5])
def test_a_dropped_group_goes_on_to_the_bit_and_its_predecessor_is_fenced(two: Callable[..., Two], epochs: int):
    """Dropped while both train, while one does, and before the test split is measured."""
    whole, dropped = two("whole"), two("dropped")
    to_the_end(whole.worker())
    first = dropped.worker()
    for _ in range(epochs):
        first.step()
    second = dropped.worker()
    results = to_the_end(second)
    assert len(results) == max(EPOCHS) - epochs + 1
    fenced = first.step()
    assert (fenced["done"], {row["state"] for row in fenced["trials"]}) == (True, {"fenced"})
    for straight, resumed in zip(whole.stored, dropped.stored, strict=True):
        assert resumed.outcome() == {**straight.outcome(), "attempts": 2}
        assert resumed.file("model.safetensors").read_bytes() == straight.file("model.safetensors").read_bytes()


def test_a_failure_is_tried_once_more_and_then_fails_both(two: Callable[..., Two]):
    broken = two("broken", lr=2.0)
    results = to_the_end(broken.worker())
    assert [[row["epoch"] for row in result["trials"]] for result in results] == [[1, 1], [2, 2], [2, 2], [2, 2]]
    assert [result["done"] for result in results] == [False, False, False, True]
    assert broken.states() == ["failed", "failed"]
    for stored in broken.stored:
        assert stored.outcome()["error"] == "RuntimeError: the first is broken"
        assert [row["epoch"] for row in stored.outcome()["history"]] == [1, 2]
        assert "the first is broken" in (stored.root / "traceback.txt").read_text()
        assert stored.checkpoints() == []


def test_what_the_scheduler_stops_keeps_all_it_measured(two: Callable[..., Two]):
    """The driver reads no checkpoint for that: only the method knows what stands in one."""
    stopped, heard = two("stopped"), []

    class Once:
        finished = True

        def next(self) -> Group:
            return Group(stopped.trials)

        def concluded(self, trial: PlannedTrial, outcome: dict[str, Any]) -> None:
            heard.append((trial.signature, outcome["state"]))

    display = ProgressDisplay("toy", 0, 2, Console(file=io.StringIO()))
    driver = SourceSearch(Once(), stopped.context, display, GracefulInterrupt())
    config = driver.suggest("t")
    worker = stopped.worker(config)
    display.started("t", config["trials"])
    for _ in range(4):
        result = worker.step()
        display.result("t", result)
    driver.on_trial_complete("t", result)
    assert sorted(heard) == sorted((trial.signature, "pruned") for trial in stopped.trials)
    assert (display.done, display.groups, stopped.states()) == (2, set(), ["pruned", "pruned"])
    for stored, epochs in zip(stopped.stored, (3, 4), strict=True):
        outcome = stored.outcome()
        best = outcome["history"][-1]["metrics"]["val/top1"]  # it only grows
        expected = {"best/val/top1": best, "best_epoch": float(epochs), "seconds/train": 0.5 * epochs}
        assert (outcome["metrics"], len(outcome["history"])) == (expected, epochs)
        assert outcome["provenance"]["laresa.device"] == "cpu"
        assert {path.name for path in stored.root.iterdir() if path.is_file()} == {"config.json", "outcome.json"}

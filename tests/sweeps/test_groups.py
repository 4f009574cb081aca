"""A group on a worker, without Ray: one method and one checkpoint; a run, a history and an outcome for each trial."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from laresa import plugins
from laresa.config import TrialConfig
from laresa.errors import ConfigError
from laresa.methods import start
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.progress import ProgressDisplay
from sweeps.service.driver.shares import Shares
from sweeps.service.driver.source_search import SourceSearch
from sweeps.service.storage.files import SweepFolder, TrialFolder
from sweeps.service.study import Group, PlannedTrial
from sweeps.service.tracking.write import SweepRun
from sweeps.service.worker import session
from sweeps.service.worker.device import VISIBLE
from sweeps.service.worker.members import TrialContext
from sweeps.service.worker.plugins import Shipment, pack, unpack
from sweeps.service.worker.trial import TuneTrial

FUSED = """
import torch
from laresa import checkpoint
from laresa.measurement import Measurement
from laresa.methods import Result
from laresa.seeds import generator

class Fused:
    '''All configurations in the rows of one tensor, each with steps of its own.

    One with lr > 1 breaks alone in its third epoch, one with lr > 2 breaks all; more than two at once are too many.
    '''

    @staticmethod
    def group_key(config):
        return config.fold

    def __init__(self, configs, data, device, at_once):
        self.configs, self.rows_KD, self.histories = configs, torch.zeros(len(configs), 4), [[] for _ in configs]
        self.at_once, self.failures, self.stopped = at_once, {}, set()

    @property
    def done(self):
        ended = [len(h) >= c.epochs for c, h in zip(self.configs, self.histories)]
        return [end or k in self.failures or k in self.stopped for k, end in enumerate(ended)]

    def epoch(self):
        places = [k for k, done in enumerate(self.done) if not done][:self.at_once]
        if len(places) > 2:
            raise torch.OutOfMemoryError("too many")
        return [self._one(k) if k in places else None for k in range(len(self.configs))]

    def _one(self, k):
        config, number = self.configs[k], len(self.histories[k]) + 1
        if config.lr > 1 and number == 3:
            self.failures[k] = RuntimeError("it is broken")
            if config.lr > 2:
                raise self.failures[k]
            return None
        self.rows_KD[k] += config.lr * torch.rand(4, generator=generator("cpu", config.seed, number, "step"))
        value = float(self.rows_KD[k].sum())
        self.histories[k].append(Measurement(number, {"val/top1": value, "train/loss": -value}, 0.5, 1000 * number))
        return self.histories[k][-1]

    def stop(self, index):
        self.stopped.add(index)

    def save(self, path):
        kept = {c.signature(): [m.to_dict() for m in h] for c, h in zip(self.configs, self.histories)}
        checkpoint.save(path, dict(zip(kept, self.rows_KD)), {"kept": kept})

    def restore(self, path, indices):
        tensors, state = checkpoint.load(path)
        for k in indices:
            if (signature := self.configs[k].signature()) in tensors:
                self.rows_KD[k] = tensors[signature]
                self.histories[k] = [Measurement.from_dict(m) for m in state["kept"][signature]]

    def result(self, index):
        config, history, row = self.configs[index], tuple(self.histories[index]), self.rows_KD[index].clone()
        best = {"best/val/top1": history[-1].metrics["val/top1"]}
        return Result(config, history, len(history), best, {"row": row}, None)

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


class Several:
    """Trials of one group in a storage of their own, and workers for them."""

    def __init__(self, folder: Path, pictures: Path, epochs: Sequence[int] = EPOCHS, **fields: Any) -> None:
        folder.mkdir()
        self.sweep = SweepFolder(folder)
        self.sweep.write("plan.json", {})
        self.context = TrialContext(SweepRun("u", "toy", "0", "0"), self.sweep.place, 1.0, {})
        base = TrialConfig(dataset=str(pictures), method="fused", subset="ce", lr=0.1)
        configs = [base.replace(seed=k, epochs=n) for k, n in enumerate(epochs)]
        configs[0] = configs[0].replace(**fields)
        self.trials = tuple(PlannedTrial("ce", config, "search") for config in configs)
        self.stored = [self.sweep.trial(trial.key) for trial in self.trials]

    def worker(self, trials: Sequence[PlannedTrial] | None = None, *, halving: bool = False) -> TuneTrial:
        group = [trial.to_dict() for trial in trials or self.trials]
        return worker({"trials": group, "halving": halving, "context": self.context.to_dict()})

    def states(self) -> list[str]:
        return [stored.outcome()["state"] for stored in self.stored]

    def checkpoints(self) -> int:
        """In the folders of groups."""
        return len(list(self.sweep.root.glob("groups/*/attempt-*/checkpoint-*")))


def worker(config: dict[str, Any]) -> TuneTrial:
    """config: as Tune has it from the driver."""
    made = object.__new__(TuneTrial)  # without Tune around it
    made._writer = Writer()
    made.setup(config, pack(plugins.loaded()))
    return made


@pytest.fixture
def several(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Iterator[Callable[..., Several]]:
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(session, "STEP_SECONDS", 0.0)  # an epoch a step
    monkeypatch.setattr(session, "KEEP_SECONDS", 0.0)  # and a checkpoint
    path = tmp_path / "fused.py"
    path.write_text(FUSED)
    with plugins.isolated():
        plugins.load(str(path))
        yield lambda name, **fields: Several(tmp_path / name, pictures, **fields)
        unpack(Shipment())


def to_the_end(worker: TuneTrial) -> list[dict[str, Any]]:
    results = [worker.step()]
    while not results[-1]["done"]:
        results.append(worker.step())
    return results


def told(worker: TuneTrial, several: Several) -> list[list[Any]]:
    return [worker._writer.sent[trial.signature] for trial in several.trials]


def test_each_trial_has_its_own_outcome_as_soon_as_it_is_done(several: Callable[..., Several]):
    whole = several("whole")
    worker = whole.worker()
    worker.step()
    assert ([len(stored.checkpoints()) for stored in whole.stored], whole.checkpoints()) == ([0, 0], 1)
    worker.step()
    worker.step()
    assert [stored.outcome() is None for stored in whole.stored] == [True, True]
    fourth, *_, last = to_the_end(worker)
    assert whole.stored[0].outcome()["state"] == "finished"
    assert [(row["epoch"], row["state"]) for row in fourth["trials"]] == [(3, "finished"), (3, "running")]
    assert (fourth["done"], [row["done"] for row in fourth["trials"]]) == (False, [True, False])
    assert [row["state"] for row in last["trials"]] == whole.states() == ["finished", "finished"]
    lengths = [[row["epoch"] for row in stored.outcome()["history"]] for stored in whole.stored]
    assert lengths == [[1, 2, 3], [1, 2, 3, 4, 5]]
    assert told(worker, whole) == [["open", 1, 2, 3, "finished"], ["open", 1, 2, 3, 4, 5, "finished"]]
    for stored in whole.stored:
        left = {path.name for path in stored.root.rglob("*") if path.is_file()}
        assert left == {"config.json", "outcome.json", "model.safetensors"}
    assert whole.checkpoints() == 0


@pytest.mark.parametrize("epochs", [2, 3, 4, 5])
def test_a_dropped_group_goes_on_to_the_bit_and_its_predecessor_is_fenced(several: Callable[..., Several], epochs: int):
    """Dropped while both train, before one is concluded, while one trains, and before its test split is measured."""
    whole, dropped = several("whole"), several("dropped")
    to_the_end(whole.worker())
    first = dropped.worker()
    for _ in range(epochs):
        first.step()
    left = [trial for trial, stored in zip(dropped.trials, dropped.stored, strict=True) if stored.outcome() is None]
    second = dropped.worker(left)  # the driver asks for no more than that
    to_the_end(second)
    if len(left) == len(dropped.trials):
        fenced = first.step()
        assert (fenced["done"], {row["state"] for row in fenced["trials"]}) == (True, {"fenced"})
    for straight, resumed in zip(whole.stored, dropped.stored, strict=True):
        assert {**resumed.outcome(), "attempts": 1} == straight.outcome()
        assert resumed.file("model.safetensors").read_bytes() == straight.file("model.safetensors").read_bytes()


def test_a_trial_finds_its_state_whoever_it_trains_with(several: Callable[..., Several]):
    """Three begin together; the first is alone afterwards, the others go on together, then all three again."""
    whole, mixed = several("whole", epochs=(5, 5, 5)), several("mixed", epochs=(5, 5, 5))
    to_the_end(whole.worker())
    whole_rows = [stored.file("model.safetensors").read_bytes() for stored in whole.stored]
    for some, steps in ((mixed.trials[:2], 1), (mixed.trials, 3), (mixed.trials[1:], 1)):
        running = mixed.worker(some)
        for _ in range(steps):
            running.step()
    assert mixed.checkpoints() == 1 + 2 + 1  # the two newest of each group
    mixed.sweep.drop_groups([trial.key for trial in mixed.trials])
    assert mixed.checkpoints() == 2 + 1
    to_the_end(mixed.worker())
    assert [stored.file("model.safetensors").read_bytes() for stored in mixed.stored] == whole_rows
    for stored, straight in zip(mixed.stored, whole.stored, strict=True):
        assert stored.outcome()["history"] == straight.outcome()["history"]


def test_a_damaged_checkpoint_is_passed_over(several: Callable[..., Several]):
    whole, damaged = several("whole"), several("damaged")
    to_the_end(whole.worker())
    first = damaged.worker()
    first.step()
    first.step()
    newest, before = sorted(damaged.sweep.root.glob("groups/*/attempt-*/checkpoint-*"), reverse=True)
    newest.write_bytes(before.read_bytes()[:100])
    to_the_end(damaged.worker())
    assert [stored.outcome()["history"] for stored in damaged.stored] == [
        stored.outcome()["history"] for stored in whole.stored
    ]


def test_what_is_given_up_keeps_the_epochs_since_its_last_checkpoint(
    several: Callable[..., Several], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "KEEP_SECONDS", 60.0)
    left = several("left")
    worker = left.worker()
    worker.step()
    worker.step()
    assert (left.checkpoints(), told(worker, left)) == (0, [["open"], ["open"]])  # not told what could be lost
    worker._leave()
    assert (left.checkpoints(), told(worker, left)) == (1, [["open", 1, 2], ["open", 1, 2]])
    again = left.worker()
    assert [row["epoch"] for row in again.step()["trials"]] == [3, 3]


def test_one_that_fails_fails_alone(several: Callable[..., Several]):
    broken, whole = several("broken", lr=1.5), several("whole")
    to_the_end(broken.worker())
    to_the_end(whole.worker())
    assert broken.states() == ["failed", "finished"]
    failed = broken.stored[0].outcome()
    assert (failed["error"], len(failed["history"])) == ("RuntimeError: it is broken", 2)
    assert "it is broken" in (broken.stored[0].root / "traceback.txt").read_text()
    assert broken.stored[1].outcome() == whole.stored[1].outcome()


def test_what_fails_for_all_is_tried_once_more_and_then_fails(several: Callable[..., Several]):
    broken = several("broken", lr=3.0)
    results = to_the_end(broken.worker())
    assert [[row["epoch"] for row in result["trials"]] for result in results] == [[1, 1], [2, 2], [2, 2], [2, 2]]
    assert [result["done"] for result in results] == [False, False, False, True]
    assert broken.states() == ["failed", "failed"]
    for stored in broken.stored:
        assert stored.outcome()["error"] == "RuntimeError: it is broken"
        assert [row["epoch"] for row in stored.outcome()["history"]] == [1, 2]
    assert broken.checkpoints() == 0


def test_too_many_for_the_memory_are_halved(several: Callable[..., Several], caplog: pytest.LogCaptureFixture):
    many = several("many", epochs=(2, 2, 2, 2, 2))
    worker = many.worker()
    to_the_end(worker)
    assert many.states() == ["finished"] * 5
    assert "out of memory with 5 trials at once: going on with 2" in caplog.text
    assert {len(stored.outcome()["history"]) for stored in many.stored} == {2}


def test_each_arm_is_halved_for_itself(several: Callable[..., Several]):
    """Of one arm two thirds end at each rung; another's single trial has nobody to be worse than."""
    group = several("group", epochs=(9,) * 4)
    other = PlannedTrial("other", group.trials[3].config.replace(lr=1e-5), "search")
    group.trials = (*group.trials[:3], other)
    group.stored[3] = group.sweep.trial(other.key)
    to_the_end(group.worker(halving=True))
    assert sorted(group.states()[:3]) == ["finished", "pruned", "pruned"]
    assert group.states()[3] == "finished"
    for stored in group.stored:
        outcome = stored.outcome()
        if outcome["state"] == "pruned":
            expected = {"best/val/top1": outcome["history"][-1]["metrics"]["val/top1"], "best_epoch": 1.0}
            assert outcome["metrics"] == {**expected, "seconds/train": 0.5}
            assert {path.name for path in stored.root.iterdir() if path.is_file()} == {"config.json", "outcome.json"}


def test_of_a_group_only_equal_keys_are_taken(several: Callable[..., Several]):
    first = several("keys").trials[0].config
    with pytest.raises(ConfigError, match=r"can't train these 2 together: fused 0, fused 1|fused 1, fused 0"):
        start((first, first.replace(fold=1)), object(), "cpu")


def test_what_tunes_scheduler_stops_keeps_all_it_measured(several: Callable[..., Several]):
    """The driver reads no checkpoint for that: only the method knows what stands in one."""
    stopped, heard = several("stopped", epochs=(5,)), []

    class Once:
        known = finished = True

        def next(self) -> Group:
            return Group(stopped.trials)

        def concluded(self, trial: PlannedTrial, outcome: dict[str, Any]) -> None:
            heard.append((trial.signature, outcome["state"]))

    display = ProgressDisplay("toy", 0, 1, Console(file=io.StringIO()))
    driver = SourceSearch(Once(), stopped.context, display, GracefulInterrupt(), Shares("toy", 1.0, False))
    config = driver.suggest("t")
    trial = worker(config)
    display.started("t", config["trials"])
    for _ in range(4):
        result = trial.step()
        display.result("t", result)
    driver.on_trial_complete("t", result)
    assert heard == [(stopped.trials[0].signature, "pruned")]
    assert (display.done, display.groups, stopped.states()) == (1, set(), ["pruned"])
    outcome = stopped.stored[0].outcome()
    best = outcome["history"][-1]["metrics"]["val/top1"]  # it only grows
    assert outcome["metrics"] == {"best/val/top1": best, "best_epoch": 4.0, "seconds/train": 2.0}
    assert (len(outcome["history"]), outcome["provenance"]["laresa.device"]) == (4, "cpu")
    assert {path.name for path in stopped.stored[0].root.iterdir() if path.is_file()} == {"config.json", "outcome.json"}

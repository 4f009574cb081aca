"""Tune's side: which trial is next, a scheduler for each search, and groups of trials as one trial of Tune's."""

from __future__ import annotations

import io
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from rich.console import Console

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.progress import ProgressDisplay
from sweeps.service.driver.schedulers import SCHEDULERS, Asha, InOrder, MedianStopping, check_searches, scheduler_of
from sweeps.service.driver.shares import Shares
from sweeps.service.driver.source_search import SourceSearch
from sweeps.service.storage.files import MEASURED, SweepFolder
from sweeps.service.storage.state import write_state
from sweeps.service.study import Group, PlannedTrial, Replicate, Search
from sweeps.service.tracking.write import SweepRun
from sweeps.service.worker.members import OOM_SHARED_GPU, TrialContext
from sweeps.service.worker.trial import group_result


@dataclass(eq=False)
class Fake:
    """What a scheduler asks of a trial and of Tune's controller."""

    status: str = Trial.PENDING
    arm: str = "ce"
    is_saving: bool = False

    @property
    def trial_id(self) -> int:
        return id(self)

    @property
    def config(self) -> dict:
        return {"trials": [{"arm": self.arm}]}

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)


class Controller:
    def __init__(self, trials: list[Fake]) -> None:
        self.get_trials = self.get_live_trials = lambda: trials

    def stop_trial(self, trial: Fake) -> None:
        trial.status = Trial.TERMINATED


def test_it_chooses_as_tunes_own_and_forgets_what_has_ended():
    trials = [Fake() for _ in range(5)]
    ours, theirs, controller = InOrder(), FIFOScheduler(), Controller(trials)
    for trial in trials:
        ours.on_trial_add(controller, trial)
    steps = [(0, Trial.RUNNING), (1, Trial.PAUSED), (0, Trial.TERMINATED), (2, Trial.ERROR), (3, Trial.RUNNING)]
    for index, status in [*steps, (4, Trial.RUNNING), (1, Trial.RUNNING), (3, Trial.PENDING)]:
        trials[index].status = status
        assert ours.choose_trial_to_run(controller) is theirs.choose_trial_to_run(controller)
    assert ours._live == (trials[1], trials[3], trials[4])


@pytest.mark.parametrize("kind", [Asha, MedianStopping])
def test_schedulers_that_stop_early_choose_so_too(kind: type[InOrder]):
    assert kind.choose_trial_to_run is InOrder.choose_trial_to_run
    assert kind.on_trial_result is not InOrder.on_trial_result


def searches(scheduler: str, *arms: str) -> list[Search]:
    space, base = {"lr": FloatDistribution(1e-4, 1e-2)}, TrialConfig(subset="ce", epochs=9)
    return [Search(arm, base, space, 8, Replicate(0, 0), scheduler=scheduler) for arm in arms]


def simulated(scheduler, levels: dict[str, list[float]]) -> dict[str, list[int]]:
    """arm -> the epoch that each of its trials came to, with room for all at once; the arms take turns.

    A trial's validation grows by its level an epoch, of nine.
    """
    rows = [(Fake(arm=arm), values[i]) for i in range(4) for arm, values in levels.items()]
    controller, reached = Controller([trial for trial, _ in rows]), dict.fromkeys((id(trial) for trial, _ in rows), 0)
    for trial, _ in rows:
        scheduler.on_trial_add(controller, trial)
    while (ready := scheduler.choose_trial_to_run(controller)) or any(t.status == Trial.RUNNING for t, _ in rows):
        if ready:
            ready.status = Trial.RUNNING
            continue
        for trial, level in rows:
            if trial.status == Trial.RUNNING:
                reached[id(trial)] += 1
                result = {"epoch": reached[id(trial)], "val/top1": level * reached[id(trial)]}
                action = scheduler.on_trial_result(controller, trial, result)
                if action == "STOP" or result["epoch"] == 9:
                    scheduler.on_trial_complete(controller, trial, result)
                    trial.status = Trial.TERMINATED
                elif action == "PAUSE":
                    trial.status = Trial.PAUSED
    return {arm: [reached[id(trial)] for trial, _ in rows if trial.arm == arm] for arm in levels}


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_an_arm_is_never_stopped_by_another_arms_level(name: str):
    """Arms of very different levels: each is judged among its own, as if it were alone."""
    levels = {"high": [0.05, 0.06, 0.04, 0.07], "low": [0.002, 0.001, 0.003, 0.004], "none": [0.0] * 4}
    alone = {arm: simulated(SCHEDULERS[name](9), {arm: values})[arm] for arm, values in levels.items()}
    assert simulated(scheduler_of(searches(name, *levels)), levels) == alone
    assert simulated(SCHEDULERS[name](9), levels) != alone  # on one scheduler they do stop each other
    assert max(alone["low"]) == 9


def test_what_waits_of_several_searches_runs_in_the_order_given_and_what_was_paused_later():
    scheduler, trials = scheduler_of(searches("asha", "a", "b")), [Fake(arm=arm) for arm in "baab"]
    for trial in trials:
        scheduler.on_trial_add(Controller(trials), trial)
    trials[0].status = Trial.PAUSED
    order = []
    while (trial := scheduler.choose_trial_to_run(Controller(trials))) is not None:
        order.append(trials.index(trial))
        trial.status = Trial.RUNNING
    assert order == [1, 2, 3, 0]


def test_searches_without_a_scheduler_have_none_and_an_unknown_one_is_named():
    assert scheduler_of(searches("none", "a", "b")) is None
    with pytest.raises(ConfigError, match="unknown scheduler 'ashaa'; did you mean 'asha'"):
        check_searches(searches("ashaa", "a"))


# ---------------------------------------------------------------------- groups


class Pairs:
    """A source of groups of two, as fused training will have them; it notes what it hears."""

    def __init__(self, count: int) -> None:
        configs = [TrialConfig(subset="ce", epochs=3, seed=seed) for seed in range(2 * count)]
        trials = [PlannedTrial("ce", config) for config in configs]
        self.left = deque(Group(pair) for pair in zip(trials[::2], trials[1::2], strict=True))
        self.heard: list[tuple[str, str]] = []
        self.waits = False  # for outcomes, which may let it ask for more

    known = False

    @property
    def finished(self) -> bool:
        return not self.left and not self.waits

    def next(self) -> Group | None:
        return self.left.popleft() if self.left else None

    def concluded(self, trial: PlannedTrial, outcome: dict) -> None:
        self.heard.append((trial.signature, outcome["state"]))


@pytest.fixture
def driving(tmp_path: Path):
    """(search, source, display, folder): what stands between Tune and a source of two groups."""
    folder, source = SweepFolder(tmp_path), Pairs(2)
    display = ProgressDisplay("toy", 0, 4, Console(file=io.StringIO(), width=200))
    context = TrialContext(SweepRun("u", "toy", "0", "0"), folder.place, 1.0, {})
    shares = Shares("toy", 1.0, gpu=False)
    return SourceSearch(source, context, display, GracefulInterrupt(), shares), source, display, folder


def row(trial: dict, epoch: int, value: float, state: str = "running") -> dict:
    return {
        "signature": trial["signature"], "epoch": epoch, "val/top1": value, "state": state, "done": state != "running"
    }  # fmt: skip


def test_a_group_is_one_trial_of_tunes_and_each_of_its_trials_is_told(driving):
    search, source, display, folder = driving
    first = search.suggest("t1")
    a, b = first["trials"]
    assert PlannedTrial.from_dict(a).signature == a["signature"] != b["signature"]
    display.started("t1", first["trials"])
    display.result("t1", group_result([row(a, 1, 0.25), row(b, 1, 0.5)]))
    assert [trial.last for trial in display.running.values()] == [0.25, 0.5]

    # one finishes by itself, then the scheduler stops what is left of the group
    stored = [folder.trial(PlannedTrial.from_dict(trial).key) for trial in (a, b)]
    for trial in stored:
        trial.new_attempt()
    measured = [{"epoch": epoch, "metrics": {"val/top1": 0.2 * epoch}, "seconds": 1.0} for epoch in (1, 2)]
    stored[1].write(MEASURED, {"history": measured, "provenance": {}})
    write_state(stored[0].root / "outcome.json", {"state": "finished", "metrics": {}, "history": []})
    finished = {**row(a, 2, 0.3, "finished"), "test/top1": 0.2, "best_epoch": 2.0}
    last = group_result([finished, row(b, 2, 0.4)])
    assert (last["state"], last["done"], last["val/top1"]) == ("running", False, 0.4)
    display.result("t1", last)
    search.on_trial_complete("t1", last)
    assert sorted(source.heard) == sorted([(a["signature"], "finished"), (b["signature"], "pruned")])
    assert stored[1].outcome()["metrics"] == {"best/val/top1": 0.4, "best_epoch": 2.0, "seconds/train": 2.0}
    assert (display.done, display.groups) == (2, set())

    # of the second group one ran out of a shared GPU: nobody is told, it comes again alone
    second = search.suggest("t2")
    assert search.suggest("t3") is None  # what trains may yet give way, and come again
    assert search.needs_no_worker()
    c, d = second["trials"]
    display.started("t2", second["trials"])
    folder.trial(PlannedTrial.from_dict(d).key).new_attempt().conclude(
        {"state": "finished", "metrics": {}, "history": []}
    )
    out = group_result([row(c, 0, 0.0, OOM_SHARED_GPU), {**finished, "signature": d["signature"]}])
    assert out["done"]
    display.result("t2", out)
    search.on_trial_complete("t2", out)
    assert [trial.signature for trial in search.oom_shared_gpu] == [c["signature"]]
    assert source.heard[2:] == [(d["signature"], "finished")]
    assert search.suggest("t3") == Searcher.FINISHED


def test_what_gives_way_comes_again_without_those_that_have_ended(driving):
    search, source, display, folder = driving
    for name in ("t1", "t2"):
        display.started(name, search.suggest(name)["trials"])
        search.started(name)
    assert not search.gives_way("t1")
    search._shares.allowed, search._shares.starved = 1, True  # another sweep has come
    assert [search.gives_way(name) for name in ("t1", "t2")] == [False, True]  # the youngest
    given = search._given["t2"].trials
    measured = {"history": [{"epoch": 1, "metrics": {"val/top1": 0.5}, "seconds": 1.0}], "provenance": {}}
    going_on = folder.trial(given[1].key)
    going_on.new_attempt()
    going_on.write(MEASURED, measured)
    rows = [row(given[0].to_dict(), 1, 0.5, "stopped"), row(given[1].to_dict(), 1, 0.5)]
    search.heard("t2", rows)
    search.on_trial_complete("t2", group_result(rows))
    assert source.heard == []  # least of all is it pruned
    assert going_on.outcome() is None
    assert [trial.signature for trial in search.stopped] == [given[0].signature]
    assert search.suggest("t3") is None
    assert search.needs_no_worker()
    search._shares.starved = False  # it has its place
    assert search.suggest("t3") is not None
    assert [trial.signature for trial in search._given["t3"].trials] == [given[1].signature]
    assert search.suggest("t4") is None
    assert search.too_many(["t3"]) == []
    search.started("t3")
    assert search.gives_way("t3")
    search._shares.allowed = None
    search.on_trial_complete("t3", None)  # it was taken back before it ran
    assert len(search.suggest("t4")["trials"]) == 1


def test_what_was_given_up_leaves_no_one_waiting(driving):
    """A source that would wait for a group's outcome is not waited for once nothing is under way."""
    search, source, *_ = driving
    search.suggest("t1")
    source.left.clear()
    source.waits = True
    assert search.suggest("t2") is None
    search.on_trial_complete("t1", None, error=True)
    assert source.heard == []
    assert search.suggest("t2") == Searcher.FINISHED


def test_a_group_of_one_reports_as_its_trial_and_nan_is_no_score():
    fenced = row({"signature": "s"}, 0, 0.0, "fenced")
    alone = group_result([fenced])
    assert {name: alone[name] for name in ("epoch", "val/top1", "state", "done")} == {
        name: fenced[name] for name in ("epoch", "val/top1", "state", "done")
    }
    failed = {"signature": "s", "epoch": 2, "state": "failed", "val/top1": math.nan, "done": True}
    assert math.isnan(group_result([failed])["val/top1"])
    assert group_result([failed, {**failed, "val/top1": 0.25}])["val/top1"] == 0.25

"""`laresa status`: what it says of a sweep at work, a dead one, a whole one, and one whose storage is elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from laresa.measurement import Measurement
from sweeps.service.planning.status import Status, status
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking import write as tracking
from sweeps.service.tracking.client import client
from sweeps.service.tracking.deliver import Change, Tracker, points
from sweeps.service.tracking.records import TrialRecord
from sweeps.service.tracking.write import SweepRun, TrialRun
from tests.sweeps.conftest import ablation, laresa

CONFIG = TrialConfig(subset="ce", epochs=10, seed=0)


def record(state: str, seed: int = 0, **metrics: float) -> TrialRecord:
    return TrialRecord("toy", str(seed), f"run{seed}", "ce", CONFIG.replace(seed=seed), state, metrics)


def test_a_sweep_at_work_in_words():
    found = (
        record("finished", 0, **{"best/val/top1": 0.75}),
        record("running", 1, **{"val/top1": 0.5}),
        record("running", 2),
    )
    assert Status("toy", "at work", found, 3, {"run1": 4}, 100.0).lines() == [
        "toy: 1 finished, 2 running, 3 not started",
        "  running ce, seed 1, fold 0: epoch 4 of 10, val/top1 0.5000",
        "  running ce, seed 2, fold 0: epoch 0 of 10, no epoch yet",
        "best val/top1 0.7500: ce, seed 0, fold 0",
        "time left: about 1.7 min",
        "driver: at work",
    ]


@pytest.mark.parametrize(("driver", "words"), [("none", "continues it"), ("unknown", "--storage")])
def test_without_a_driver_it_says_what_to_do(driver: str, words: str):
    assert words in Status("toy", driver, (record("interrupted"),), 0, {}, None).lines()[-1]
    whole = Status("toy", driver, (record("finished", **{"best/val/top1": 0.5}),), 0, {}, None)
    assert whole.lines() == ["toy: 1 finished", "best val/top1 0.5000: ce, seed 0, fold 0"]


def begin(url: str, sweep: str, epochs: int, trials: int) -> SweepRun:
    """A sweep in the tracker whose only trial so far is at work."""
    opened = tracking.open_sweep(url, sweep, {"laresa.trials": str(trials)})
    api = client(url)
    run = tracking.open_trial(api, TrialRun(opened, PlannedTrial("ce", CONFIG), {}))
    rows = [Measurement(epoch, {"val/top1": 0.1 * epoch}, 2.0, epoch) for epoch in range(1, epochs + 1)]
    Tracker(api, None).write([Change(run.run_id, points(rows))])
    return opened


@pytest.mark.slow
def test_the_lock_tells_whether_a_driver_is_at_work(server: str, tmp_path: Path):
    begin(server, "watched", epochs=4, trials=3)
    folder = SweepFolder(tmp_path / "watched")
    elsewhere = status("watched", folder)
    assert (elsewhere.driver, elsewhere.counts) == ("unknown", {"running": 1, "not started": 2})
    assert not folder.root.exists()  # it only shows
    with folder.lock():
        found = status("watched", folder)
    assert (found.driver, found.counts) == ("at work", {"running": 1, "not started": 2})
    assert list(found.epochs.values()) == [4]
    assert found.seconds_left == (6 + 2 * 10) * 2.0
    assert "epoch 4 of 10, val/top1 0.4000" in found.lines()[1]

    dead = status("watched", folder)
    assert (dead.driver, dead.counts) == ("none", {"interrupted": 1, "not started": 2})
    assert dead.seconds_left is None
    assert status("watched", SweepFolder(tmp_path / "nowhere")).counts["running"] == 1  # the tracker is as it was


@pytest.mark.slow
def test_a_whole_sweep_and_json(server: str, pictures: Path, tmp_path: Path):
    laresa("run", *ablation("shown", pictures, "ce"), cwd=tmp_path)
    lines = laresa("status", "shown", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "shown: 1 finished"
    assert lines[1].startswith("best val/top1 ")
    assert len(lines) == 2
    (told,) = json.loads(laresa("status", "shown", "--json", cwd=tmp_path).stdout)
    assert (told["state"], told["arm"]) == ("finished", "ce")


@pytest.mark.slow
def test_an_unknown_sweep_is_named(server: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="no sweep 'never'"):
        status("never", SweepFolder(tmp_path / "never"))

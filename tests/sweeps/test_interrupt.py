"""Ctrl-C once and twice, as a terminal sends it; and what the watcher shows."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console

from sweeps import trials
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.progress import ProgressDisplay, clock
from sweeps.service.storage.files import SweepFolder
from tests.sweeps.conftest import QUICK, laresa
from tests.sweeps.test_kills import assert_settled, kill_driver, start, workers

CONFIG = {"epochs": 10, "seed": 3, "fold": 1}


def test_the_first_signal_asks_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with GracefulInterrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_log_file_gets_a_line_a_trial():
    text = io.StringIO()
    display = ProgressDisplay("toy", 1, 4, Console(file=text))
    with display:
        display.started("a", "ce", CONFIG)
        display.started("b", "ce+anchor", CONFIG)
        display.started("c", "ce+reg", CONFIG)
        for epoch in (1, 2):
            display.result("a", {"epoch": epoch, "val/top1": 0.25 * epoch, "state": "running"})
        done = {"val/top1": 0.5, "test/top1": 0.4, "best_epoch": 2.0, "state": "finished", "done": True}
        display.result("a", {"epoch": 2, **done})
        display.result("b", {"epoch": 1, "val/top1": 0.125, "state": "running"})
        display.pruned("b", {"metrics": {"best/val/top1": 0.125}})
        display.result("c", {"epoch": 0, "state": "failed", "error": "MemoryError: full", "done": True})
    assert [line.partition(" (")[0] for line in text.getvalue().splitlines()] == [
        "toy: 4 trials, 1 finished before",
        "[  2/4] finished  ce, seed 3, fold 1: val 0.500, test 0.400, best epoch 2",
        "[  3/4] pruned    ce+anchor, seed 3, fold 1: after epoch 1, val 0.125",
        "[  4/4] failed    ce+reg, seed 3, fold 1: MemoryError: full",
    ]


def test_a_terminal_shows_states_the_best_speed_time_left_and_what_runs():
    console = Console(file=io.StringIO(), width=120)
    display = ProgressDisplay("toy", 0, 4, console)
    assert display.seconds_left() is None
    display.started("a", "ce", CONFIG)
    display.started("b", "ce+anchor", CONFIG)
    display._began -= 8.0  # four epochs in eight seconds
    for epoch in (1, 2, 3):
        display.result("a", {"epoch": epoch, "val/top1": 0.5 - 0.1 * epoch, "state": "running"})
    display.result("b", {"epoch": 7, "val/top1": 0.25, "state": "running"})  # resumed: its first result here
    assert display.seconds_left() == pytest.approx((2 * 10 + 7 + 3) * 2, rel=0.01)
    console.print(display.table())
    shown = console.file.getvalue()
    for words in ("0 of 4 done", "2 running", "0.5 epochs/s", "best val 0.400: ce, seed 3, fold 1", "0.200", "7/10"):
        assert words in shown
    display.lost("b", "its worker died")
    assert "1 interrupted" in display.table().renderables[0].plain


def test_clock():
    assert [clock(s) for s in (5, 65.9, 3723)] == ["0:05", "1:05", "1:02:03"]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_everything_resumable(server: str, pictures: Path, tmp_path: Path, laresa_home: Path):
    """Once in the first run, twice in the second; the third ends it. Meanwhile a second driver is refused."""
    study = [
        "ablation",
        "--sweep",
        "stopped",
        "--dataset",
        str(pictures),
        "--subsets",
        "ce,ce+anchor",
        "--seeds",
        "0,1",
    ]
    arguments = ["run", *study, "--epochs", "45", *QUICK]
    storage = SweepFolder(laresa_home / "storage" / "stopped")

    def newest() -> int:
        found = storage.root.glob("trials/*/attempt-*/checkpoint-*")
        return max((int(path.stem.partition("-")[2]) for path in found), default=0)

    for presses in (1, 2):
        before, driver = newest(), start(arguments, tmp_path)
        try:
            deadline = time.monotonic() + 100
            if presses == 1:
                while not storage.busy():
                    time.sleep(0.05)
                second = laresa(*arguments, check=False, cwd=tmp_path)
                assert second.returncode == 1
                assert f"sweep 'stopped' is being run by process {driver.pid}" in second.stderr
            while newest() < before + 3:
                assert time.monotonic() < deadline
                assert driver.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.05)
            for _ in range(presses):
                os.killpg(driver.pid, signal.SIGINT)  # the terminal's whole foreground group hears it
                time.sleep(0.3)
            assert driver.wait(timeout=60) == 130
        finally:
            if driver.poll() is None:
                kill_driver(driver)
        said = (tmp_path / "log").read_text()
        assert "Traceback" not in said
        assert said.count("the same command continues, `laresa report stopped`") == presses
        assert "running trials end their epoch" in said
        deadline = time.monotonic() + 20
        while workers(driver.pid):  # Ray ends them a moment after their driver
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "running" not in {record.state for record in trials("stopped")}
        assert newest() >= before + 3  # kept
    laresa(*arguments, cwd=tmp_path)
    assert_settled(server, "stopped", {"finished"})
    assert len(trials("stopped")) == 4
    attempts = [storage.trial(record.signature).outcome()["attempts"] for record in trials("stopped")]
    assert max(attempts) == 3  # what ran went on

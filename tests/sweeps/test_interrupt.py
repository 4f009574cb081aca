"""Ctrl-C once and twice, as a terminal sends it; and what the watcher shows."""

from __future__ import annotations

import io
import math
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from rich.console import Console

from sweeps import trials
from sweeps.service.driver import connection, runner
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.progress import ProgressDisplay, clock
from sweeps.service.search.budget import Searched
from sweeps.service.storage.files import SweepFolder
from tests.sweeps.conftest import ablation, laresa
from tests.sweeps.test_kills import assert_settled, kill_driver, start, workers

WORKERS = """
import os
import ray
from sweeps.service.driver import connection

os.environ.pop("RAY_ADDRESS", None)
connection.connect()

@ray.remote
class Worker:
    def pid(self):
        return os.getpid()

worker = Worker.remote()
pid = ray.get(worker.pid.remote())
print(pid in [found.pid for found in connection._workers()])
connection.disconnect()
print(connection._workers())
"""
CONFIG = {"epochs": 10, "seed": 3, "fold": 1}


@pytest.fixture(autouse=True)
def hearing_hangups() -> Iterator[None]:
    """Also where the tests themselves run under nohup, which what they start inherits."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_the_first_signal_asks_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with GracefulInterrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


TERMINAL = """
import sys, time
from sweeps.service.driver.interrupt import GracefulInterrupt

with GracefulInterrupt() as interrupt:
    print("ready", flush=True)
    while not interrupt.requested:
        time.sleep(0.01)
    print("a line that nobody reads", flush=True)
    print("nor this", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write("settled")
"""


def test_a_closed_terminal_asks_and_what_is_printed_after_it_is_no_error(tmp_path: Path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", f"import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{TERMINAL}"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "ended")], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        assert os.read(ours, 100).strip() == b"ready"
        os.close(ours)
        assert process.wait(timeout=20) == 0
        assert (tmp_path / "ended").read_text() == "settled"
    finally:
        process.kill()


def test_a_signal_that_is_ignored_stays_so():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with GracefulInterrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_before_trials_run_a_signal_ends_the_command(tmp_path: Path, number: int):
    """From its first line on."""
    (tmp_path / "waits.py").write_text("import time\nprint('imported', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "sweeps.cli", "run", "waits.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "imported\n"
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "laresa: stopped; what was measured is kept, the same command continues\n"


def planned(signature: str, arm: str) -> dict:
    return {"signature": signature, "arm": arm, "role": "evidence", "config": CONFIG}


def reported(**rows: dict) -> dict:
    """What a group reports, a row a trial."""
    return {"trials": [{"signature": name, "state": "running", "done": False, **row} for name, row in rows.items()]}


def test_a_log_file_gets_a_line_a_trial():
    text = io.StringIO()
    display = ProgressDisplay("toy", 1, 4, Console(file=text))
    with display:
        display.started("group", [planned("a", "ce"), planned("b", "ce+anchor")])
        display.started("alone", [planned("c", "ce+reg")])
        assert display.groups == {"group", "alone"}
        for epoch in (1, 2):
            row = {"epoch": epoch, "val/top1": 0.25 * epoch}
            display.result("group", reported(a=row, b={**row, "val/top1": 0.125}))
        done = {"val/top1": 0.5, "test/top1": 0.4, "best_epoch": 2.0, "state": "finished", "done": True}
        display.result("group", reported(a={"epoch": 2, **done}, b={"epoch": 3, "val/top1": 0.1}))
        display.result("group", reported(a={"epoch": 2, **done}, b={"epoch": 4, "val/top1": 0.1}))  # a has ended
        assert list(display.running) == ["b", "c"]
        display.pruned("b", {"metrics": {"best/val/top1": 0.125}, "history": [{}] * 4})
        failed = {"epoch": 0, "val/top1": math.nan, "state": "failed", "error": "MemoryError: full", "done": True}
        display.result("alone", reported(c=failed))
    assert [line.partition(" (")[0] for line in text.getvalue().splitlines()] == [
        "toy: 4 trials, 1 finished before",
        "[  2/4] finished  ce, seed 3, fold 1: val 0.500, test 0.400, best epoch 2",
        "[  3/4] pruned    ce+anchor, seed 3, fold 1: after epoch 4, val 0.125",
        "[  4/4] failed    ce+reg, seed 3, fold 1: MemoryError: full",
    ]


def test_a_terminal_shows_states_the_best_speed_time_left_and_what_runs():
    console = Console(file=io.StringIO(), width=120)
    display = ProgressDisplay("toy", 0, 4, console)
    assert display.seconds_left() is None
    display.started("one", [planned("a", "ce")])
    display.started("two", [planned("b", "ce+anchor")])
    display._began -= 8.0  # four epochs in eight seconds
    for epoch in (1, 2, 3):
        display.result("one", reported(a={"epoch": epoch, "val/top1": 0.5 - 0.1 * epoch}))
    display.result("two", reported(b={"epoch": 7, "val/top1": 0.25}))  # resumed: its first result here
    assert display.seconds_left() == pytest.approx((2 * 10 + 7 + 3) * 2, rel=0.01)
    console.print(display.table())
    shown = console.file.getvalue()
    for words in ("0 of 4 done", "2 running", "0.5 epochs/s", "best val 0.400: ce, seed 3, fold 1", "0.200", "7/10"):
        assert words in shown
    display.lost("two", "its worker died")
    assert "1 interrupted" in display.table().renderables[0].plain
    assert display.groups == {"one"}


def test_searches_by_epochs_say_both_numbers_and_that_there_may_be_more():
    console = Console(file=io.StringIO(), width=120)
    now = Searched(trials=3, epochs=12, budget=40, left=28 + 20)
    display = ProgressDisplay("toy", 3, 4, console, searched=lambda: now)
    for name in ("a", "b"):
        display.started(name, [planned(name, "ce")])
        display.result(name, reported(**{name: {"epoch": 1, "val/top1": 0.25}}))
    display._began -= 2.0  # two epochs in two seconds, both of what still runs
    assert display.seconds_left() == pytest.approx(28 + 20 - 2, rel=0.01)
    for name in ("a", "b"):
        display.pruned(name, {"metrics": {"best/val/top1": 0.25}, "history": [{}]})
    console.print(display.table())
    shown = console.file.getvalue()
    for words in ("toy: at least 4 trials", "[  5/5+] pruned", "5 of 5+ done", "searched: 3 trials, 12 of 40 epochs"):
        assert words in shown


def test_the_workers_of_a_ray_that_began_here_are_found(tmp_path: Path):
    said = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert said.stdout.split()[-2:] == ["True", "[]"], said.stderr


def test_a_worker_does_not_outlive_its_ray(monkeypatch: pytest.MonkeyPatch):
    """Else it would open a run that the driver has just settled."""
    with subprocess.Popen(["sleep", "20"]) as worker:
        monkeypatch.setattr("ray.shutdown", Mock())
        monkeypatch.setattr(connection, "_workers", lambda: [psutil.Process(worker.pid)])
        monkeypatch.setattr(connection, "WORKERS_END_SECONDS", 0.2)
        connection.disconnect()
        assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize("pressed_before", [True, False])
def test_a_press_during_the_settling_waits_until_all_is_settled(monkeypatch: pytest.MonkeyPatch, pressed_before: bool):
    def plan(*_):
        if pressed_before:
            raise KeyboardInterrupt
        return []

    settled = []

    def settle(*_):
        signal.raise_signal(signal.SIGINT)
        settled.append(True)
        return {"interrupted": 1}

    study = Mock(searches=[Mock()], size=1)
    study.chosen.return_value = study
    for name in ("note_plan", "check_same_data", "disconnect", "client", "forget_stops"):
        monkeypatch.setattr(runner, name, Mock())
    monkeypatch.setattr(runner, "Spending", lambda *_: Mock(seconds=0.0))
    monkeypatch.setattr(runner, "actual_against_plan", lambda folder: {})
    monkeypatch.setattr(runner.planning, "plan", plan)
    monkeypatch.setattr("sweeps.service.search.optuna_source.OptunaSource", Mock())
    monkeypatch.setattr(runner.Runner, "_search", lambda *_: {})
    monkeypatch.setattr(runner.Runner, "_told", lambda *_: 0)
    monkeypatch.setattr(runner.Runner, "_settle", settle)
    try:
        ended = runner.Runner(study, Mock(halve_batch=False), Mock(), Mock(), Mock()).run()
    except KeyboardInterrupt:  # pytest would end
        pytest.fail("the settling was interrupted")
    assert settled
    assert ended.stopped
    assert ended.states == {"interrupted": 1}


def test_clock():
    assert [clock(s) for s in (5, 65.9, 3723)] == ["0:05", "1:05", "1:02:03"]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_everything_resumable(server: str, pictures: Path, tmp_path: Path, laresa_home: Path):
    """The terminal is closed on the first run, Ctrl-C twice ends the second, and the third ends it all."""
    arguments = ["run", *ablation("stopped", pictures, "ce,ce+anchor", "0,1", epochs=45)]
    storage = SweepFolder(laresa_home / "storage" / "stopped")

    def newest() -> int:
        found = storage.root.glob("trials/*/attempt-*/checkpoint-*")
        return max((int(path.stem.partition("-")[2]) for path in found), default=0)

    for presses, number in ((1, signal.SIGHUP), (2, signal.SIGINT)):
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
                os.killpg(driver.pid, number)  # the terminal's whole foreground group hears it
                time.sleep(0.3)
            assert driver.wait(timeout=60) == 130
        finally:
            if driver.poll() is None:
                kill_driver(driver)
        said = (tmp_path / "log").read_text()
        assert "Traceback" not in said
        assert said.count("the same command continues") == presses  # the second press may come when all has ended
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
    attempts = [storage.trial(record.key).outcome()["attempts"] for record in trials("stopped")]
    assert max(attempts) == 3  # what ran went on

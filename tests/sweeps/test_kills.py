"""Nothing lost: worker, driver and tracking server killed at random moments of a search and of a fixed plan."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from laresa.training import fit
from sweeps import trials
from sweeps.service.storage.files import SweepFolder
from sweeps.service.tracking.client import client
from sweeps.service.tracking.local_server import LocalServer
from tests.sweeps.conftest import QUICK, ablation, laresa

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("server", "one_thread"),
]
EPOCHS = 12


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sweeps.cli", *arguments]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, text=True)


def of_session(driver: int) -> dict[int, str]:
    """Command lines, by process, of all that the driver began; it leads a session of its own."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,sid=,args="], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(pid): name for pid, session, name in rows if int(session) == driver}


def workers(driver: int) -> list[int]:
    """Processes of the driver's own Ray that are training."""
    return [pid for pid, name in of_session(driver).items() if name.startswith("ray::")]


def kill_worker(driver: subprocess.Popen[str]) -> None:
    for pid in workers(driver.pid)[:1]:
        os.kill(pid, signal.SIGKILL)


def kill_raylet(driver: subprocess.Popen[str]) -> None:
    for pid, name in of_session(driver.pid).items():
        if name.partition(" ")[0].endswith("raylet/raylet"):
            os.kill(pid, signal.SIGKILL)


def kill_driver(driver: subprocess.Popen[str]) -> None:
    driver.kill()
    driver.wait()


def kill_server(driver: subprocess.Popen[str]) -> None:
    LocalServer().stop()
    time.sleep(2)
    server = LocalServer()
    server.wait(server.launch())


KILLS = {"worker": kill_worker, "raylet": kill_raylet, "driver": kill_driver, "server": kill_server}


def disturb(
    arguments: list[str],
    folder: Path,
    storage: SweepFolder,
    kills: list[str],
    seed: int,
    spread: float = 1.5,
    of: str = "trials",
) -> None:
    """Run, kill at a random moment once something is trained, type it again, until all kills are done and it ends.

    spread: seconds over which the moments lie. of: whose checkpoints say so, "trials" or "groups".
    """
    rng = random.Random(seed)
    driver = start(arguments, folder)
    try:
        for kill in kills:
            before = len(list(storage.root.glob(f"{of}/*/attempt-*/checkpoint-*")))
            deadline = time.monotonic() + 100
            while time.monotonic() < deadline and driver.poll() is None:
                if len(list(storage.root.glob(f"{of}/*/attempt-*/checkpoint-*"))) > 0 or before:
                    break
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, spread))
            if driver.poll() is None:
                KILLS[kill](driver)
            if driver.poll() is not None:
                driver = start(arguments, folder)
        driver.wait(timeout=200)
    finally:
        if driver.poll() is None:
            kill_driver(driver)
    laresa(*arguments, cwd=folder, check=False)  # typed once more; a trial may have failed by itself


def assert_settled(url: str, sweep: str, states: set[str]) -> None:
    api = client(url)
    experiment = api.get_experiment_by_name(sweep)
    found = api.search_runs([experiment.experiment_id])
    children = [run for run in found if run.data.tags["laresa.kind"] == "trial"]
    assert Counter(run.data.tags["laresa.signature"] for run in children).most_common(1)[0][1] == 1
    assert "RUNNING" not in {run.info.status for run in found}
    assert {run.data.tags["laresa.state"] for run in children} <= states
    for run in children:
        steps = [metric.step for metric in api.get_metric_history(run.info.run_id, "val/top1")]
        assert sorted(steps) == list(range(1, len(steps) + 1))


def test_a_fixed_plan_ends_as_if_undisturbed(server: str, pictures: Path, tmp_path: Path, laresa_home: Path):
    arguments = ["run", *ablation("matrix", pictures, "ce,ce+anchor", "0,1", EPOCHS)]
    storage = SweepFolder(laresa_home / "storage" / "matrix")
    disturb(arguments, tmp_path, storage, ["worker", "server", "raylet", "driver"], seed=0)
    assert_settled(server, "matrix", {"finished"})
    records = trials("matrix")
    assert len(records) == 4
    for record in records:
        undisturbed = fit(record.config, device="cpu")
        same = {name: value for name, value in undisturbed.metrics.items() if name != "seconds/train"}
        assert {name: record.metrics[name] for name in same} == same


def test_heads_that_train_together_end_as_if_each_was_alone(server: str, tmp_path: Path, laresa_home: Path):
    (tmp_path / "often.py").write_text(
        "from sweeps.service.worker import session\nsession.KEEP_SECONDS = 0.5\nMETRICS = {}\n"
    )
    study = ["run", "ablation", "--features", "tf_efficientnet_lite0", "--tune", "0", "--sweep", "heads"]
    given = ["--subsets", "ce,ce+anchor+triplet", "--seeds", "0,1,2,3", "--folds", "0,0,0,0", "--epochs", "150"]
    given += ["--set", "patience=150", "--set", "train_fraction=0.3", "--plugin", "often.py"]
    storage = SweepFolder(laresa_home / "storage" / "heads")
    disturb([*study, *given], tmp_path, storage, ["worker", "driver"], seed=3, of="groups")
    assert_settled(server, "heads", {"finished"})
    records = trials("heads", with_history=True)
    assert [len(record.history) for record in records] == [150] * 8
    assert min(storage.trial(record.key).outcome()["attempts"] for record in records) >= 2
    for record in (records[0], records[-1]):
        alone = fit(record.config, device="cpu")
        same = {name: value for name, value in alone.metrics.items() if name != "seconds/train"}
        assert {name: record.metrics[name] for name in same} == same


def test_a_search_keeps_its_budget(server: str, pictures: Path, tmp_path: Path, laresa_home: Path):
    study = ["search", "--sweep", "hunted", "--dataset", str(pictures), "--trials", "7", "--sampler", "random"]
    arguments = ["run", *study, "--epochs", str(EPOCHS), *QUICK]
    storage = SweepFolder(laresa_home / "storage" / "hunted")
    disturb(arguments, tmp_path, storage, ["driver", "worker"], seed=1)
    assert_settled(server, "hunted", {"finished", "pruned", "failed"})
    journal = optuna.storages.journal.JournalFileBackend(str(storage.root / "optuna.journal"))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(journal))
    asked = [trial for trial in study.trials if "config" in trial.user_attrs]
    assert len(asked) == 7
    assert TrialState.RUNNING not in {trial.state for trial in study.trials}
    by_signature = {record.signature: record.state for record in trials("hunted")}
    expected = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    for trial in asked:
        assert trial.state == expected[by_signature[trial.user_attrs["signature"]]]

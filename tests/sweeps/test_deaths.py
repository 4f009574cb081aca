"""Between any two writes the process may die: the same command goes on, and ends as if nothing had happened."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from laresa.errors import StorageError
from laresa.training import fit
from sweeps.service.driver.runner import Runner
from sweeps.service.storage.files import SweepFolder
from sweeps.service.tracking.schema import make_store
from sweeps.service.tracking.sweep import Sweep
from tests.sweeps.conftest import QUICK, ablation
from tests.sweeps.inprocess import DiedError, dying_at, run_here, without_ray  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_ray", "one_thread")]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    make_store(f"sqlite:///{path}")
    return path


def test_a_death_between_any_two_writes_of_a_fixed_plan(
    pictures: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ablation("plan", pictures, "ce,ce+anchor", epochs=2)
    walk(words, "plan", 2, tmp_path, empty_store, monkeypatch)


def test_a_death_between_any_two_writes_of_a_search(
    pictures: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ["search", "--sweep", "found", "--dataset", str(pictures), "--trials", "2", "--epochs", "2"]
    walk([*words, "--scheduler", "none", *QUICK], "found", 2, tmp_path, empty_store, monkeypatch)


@pytest.mark.parametrize("word", ["epoch-0002.npz", "delete"])
def test_what_a_trial_leaves_beside_its_numbers_is_whole_after_a_death(
    word: str, pictures: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    """Latents of single epochs, weights of the last: the trial dies at them, or while storage gives them up."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("LARESA_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    words = [*ablation("left", pictures, "ce", epochs=3), "--latents-every", "2", "--keep-weights", "all"]
    with dying_at(1, monkeypatch, word), pytest.raises(DiedError):
        run_here(words)
    assert run_here(words).states == {"finished": 1}
    opened = Sweep.open("left")
    (record,) = opened.trials()
    kept = opened.latents_by_epoch(record)
    assert [(epoch, arrays["z_ND"].shape) for epoch, arrays in kept.items()] == [(1, (30, 384)), (2, (30, 384))]
    assert kept[1]["z_ND"].dtype == np.float16
    weights = {file.path for file in opened.api.list_artifacts(record.run_id, "checkpoint")}
    assert weights == {"checkpoint/model.safetensors", "checkpoint/last.safetensors"}
    assert not SweepFolder(tmp_path / "storage" / "left").trial(record.key).latents(), "delivered, not kept twice"
    none = [*ablation("bare", pictures, "ce", seeds="7", epochs=1), "--keep-weights", "none"]
    assert run_here(none).states == {"finished": 1}
    (record,) = Sweep.open("bare").trials()
    assert {file.path for file in opened.api.list_artifacts(record.run_id)} == {
        "config.json",
        "history.json",
        "latents.npz",
    }


def test_storage_that_fails_when_all_is_trained_leaves_no_run_open(
    pictures: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("LARESA_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)

    def full(runner: Runner, searches: object) -> None:
        raise StorageError("No space left on device")

    monkeypatch.setattr(Runner, "_settle", full)
    with pytest.raises(StorageError):
        run_here(ablation("settled", pictures, "ce", epochs=1))
    opened = Sweep.open("settled")
    ended = sorted(run.info.status for run in opened.api.search_runs([opened.experiment_id]))
    assert ended == ["FAILED", "FINISHED"]


def walk(words: list[str], sweep: str, count: int, place: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die at the first write, at the second, ... until a run ends before it dies; after each death type it again."""
    known: dict[str, dict[str, float]] = {}
    for number in itertools.count(1):
        home = place / str(number)
        home.mkdir()
        shutil.copy(store, home / "mlflow.db")
        monkeypatch.setenv("LARESA_HOME", str(home))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        monkeypatch.chdir(home)
        with dying_at(number, monkeypatch) as passed:
            try:
                run_here(words)
            except DiedError:
                died = True
            else:
                died = False
        started = time.monotonic()
        result = run_here(words)
        assert result.states == {"finished": count}, (number, passed[-1])
        assert_as_undisturbed(sweep, count, home, known)
        shutil.rmtree(home)
        if not died:
            break
    assert number > 40
    print(f"{number - 1} deaths, {time.monotonic() - started:.1f} s")


def assert_as_undisturbed(sweep: str, count: int, home: Path, known: dict[str, dict[str, float]]) -> None:
    """Each trial once, ended, delivered, and equal to the bit to one that was trained at a stroke."""
    opened = Sweep.open(sweep)
    records = opened.trials(with_history=True)
    assert len(records) == len({record.signature for record in records}) == count
    folder = SweepFolder(home / "storage" / sweep)
    for record in records:
        stored = folder.trial(record.key)
        assert (record.state, stored.delivered(), stored.checkpoints()) == ("finished", True, [])
        assert [row.epoch for row in record.history] == [1, 2]
        if record.signature not in known:
            known[record.signature] = dict(fit(record.config, device="cpu").metrics)
        same = {name: value for name, value in known[record.signature].items() if name != "seconds/train"}
        assert {name: record.metrics[name] for name in same} == same
    runs = opened.api.search_runs([opened.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == count + 1

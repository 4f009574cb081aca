"""What a study will take: the arithmetic by hand, then measured epochs of a real sweep, and what came of the plan."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

from laresa import training
from laresa.config import TrialConfig
from laresa.data import load
from laresa.errors import ConfigError, StorageError
from laresa.measurement import Measurement
from sweeps import trials
from sweeps.cli.plan import show_plan
from sweeps.service.driver.runner import describe, run
from sweeps.service.planning import estimate as estimating
from sweeps.service.planning.estimate import Estimate, against_actual, cost_of, duration, estimate, read_journal
from sweeps.service.planning.footprint import footprint, network_parameters
from sweeps.service.planning.plan import PlanRow
from sweeps.service.search.budget import Spent
from sweeps.service.search.optuna_source import OptunaSource
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Cell, Replicate, RunOptions, Search, Study
from sweeps.service.tracking.sweep import Sweep
from sweeps.service.worker import calibrate as calibrating
from tests.sweeps.conftest import ablation, draw_pictures, laresa

CE = TrialConfig(subset="ce", epochs=10)
SEARCH = Search("search", CE, {"lr": FloatDistribution(1e-4, 1e-2, log=True)}, 5, Replicate(0, 0), scheduler="asha")
STUDY = Study("toy", (Cell("ce", CE),), (Replicate(0, 0), Replicate(1, 0), Replicate(2, 0)))
FOUR = RunOptions(concurrency=4, gpus_per_trial=0.5)


def rows(*states: str) -> list[PlanRow]:
    return [PlanRow(trial, state) for trial, state in zip(STUDY.trials(), states, strict=True)]


def test_what_is_left_times_what_an_epoch_takes(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    stored = folder.trial(STUDY.trials()[1].key).root / "attempt-0001"
    stored.mkdir(parents=True)
    (stored / "checkpoint-000004.safetensors").touch()
    found = estimate(STUDY, rows("finished", "resume", "new"), {}, {cost_of(CE): 36.0}, folder, FOUR)
    assert (found.trials, found.epochs, found.seconds) == (2, 6 + 10, 16 * 36.0)
    assert found.wall_seconds == 16 * 36.0 / 2  # no more at once than there are
    assert found.gpu_hours == pytest.approx(0.08)
    assert found.lines() == ["time: about 4.8 min for 16 epochs on 2 at once", "GPU-hours: about 0.08"]


def test_a_search_counts_what_it_was_not_told_and_is_an_upper_bound(tmp_path: Path):
    study = Study("toy", (), (), (SEARCH,))
    known = {"search": estimating.Progress((), Spent(asked=3, told=2, epochs=20, reserved=30), None)}
    found = estimate(study, [], known, {cost_of(CE): 1.0}, SweepFolder(tmp_path), FOUR)
    assert (found.trials, found.epochs) == (3, 30)
    assert "at most" in found.lines()[0]


def test_a_search_by_epochs_counts_what_is_left_of_them(tmp_path: Path):
    study = Study("toy", (), (), (replace(SEARCH, by_epochs=True),))
    known = {"search": estimating.Progress((), Spent(asked=9, told=8, epochs=24, reserved=34), None)}
    found = estimate(study, [], known, {cost_of(CE): 1.0}, SweepFolder(tmp_path), FOUR)
    assert (found.trials, found.epochs) == (3, 26)


def test_what_is_unknown_is_said_and_how_to_know_it(tmp_path: Path):
    found = estimate(STUDY, rows("new", "new", "new"), {}, {}, SweepFolder(tmp_path), FOUR)
    assert math.isnan(found.seconds)
    assert "--calibrate" in found.lines()[0]
    assert Estimate(0, 0, 0.0, 1, 0.0, False).lines() == []


def test_plan_against_actual():
    own = {"provenance": {}, "history": [{"seconds": 2.0}, {"seconds": 3.0}]}
    taken = {"provenance": {"laresa.reused_from": "r"}, "history": [{"seconds": 9.0}]}
    planned = {"trials": 2, "epochs": 4, "training seconds": 7200.0, "gpus_per_trial": 0.5}
    assert against_actual(planned, [own, taken]) == {
        "trials": (2.0, 2.0),
        "epochs": (4.0, 2.0),
        "training seconds": (7200.0, 5.0),
        "GPU-hours": (1.0, 5.0 * 0.5 / 3600),
    }
    assert against_actual({"trials": 2, "epochs": 4, "gpus_per_trial": 0.5}, []) == {"trials": (2, 0), "epochs": (4, 0)}
    assert against_actual({}, [own]) == {}
    older = {**taken, "provenance": {"laresa.adopted_from": "r"}}  # the tag's name in sweeps before 0.2
    assert against_actual({"epochs": 4}, [own, older]) == {"epochs": (4, 2)}


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_durations_as_a_person_would_say(seconds: float, text: str):
    assert duration(seconds) == text


def test_the_journal_is_read_and_never_written(tmp_path: Path):
    folder, study = SweepFolder(tmp_path), Study("toy", (), (), (SEARCH,))
    assert read_journal(study, folder) == {}
    assert list(tmp_path.iterdir()) == []
    source = OptunaSource(SEARCH, folder)
    first, second = (source.next().trials[0] for _ in range(2))
    outcome = {"state": "finished", "metrics": {"best/val/top1": 0.5}, "history": []}
    source.concluded(first, outcome)
    before = (tmp_path / "optuna.journal").read_bytes()
    progress = read_journal(study, folder)["search"]
    assert (progress.spent.asked, progress.spent.told, progress.choice.config) == (2, 1, first.config)
    assert {trial.signature for trial in progress.trials} == {first.signature, second.signature}
    assert (tmp_path / "optuna.journal").read_bytes() == before


def test_the_journals_best_is_the_smallest_loss_and_of_several_objectives_none(tmp_path: Path):
    for name, objectives in (("loss", ("val/loss",)), ("both", ("val/top1", "val/loss"))):
        search, folder = replace(SEARCH, scheduler="none", objectives=objectives), SweepFolder(tmp_path / name)
        folder.root.mkdir()
        source = OptunaSource(search, folder)
        first, second = (source.next().trials[0] for _ in range(2))
        for trial, loss in ((first, 3.0), (second, 1.0)):
            metrics = {"best/val/loss": loss, "best/val/top1": loss / 10}
            source.concluded(trial, {"state": "finished", "metrics": metrics, "history": []})
        progress = read_journal(Study("toy", (), (), (search,)), folder)["search"]
        assert progress.spent.told == 2
        assert (progress.choice.config if progress.choice else None) == (second.config if name == "loss" else None)


def test_a_damaged_journal_is_named(tmp_path: Path):
    (tmp_path / "optuna.journal").write_text('{"op_code": 99}\nnonsense\n{"more": 1}\n')
    with pytest.raises(StorageError, match=r"optuna\.journal is damaged"):
        read_journal(Study("toy", (), (), (SEARCH,)), SweepFolder(tmp_path))


def test_the_plan_lists_what_a_search_has_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study, folder = Study("toy", (), (), (SEARCH,)), SweepFolder(tmp_path / "toy")
    folder.root.mkdir()
    source = OptunaSource(SEARCH, folder)
    asked = [source.next().trials[0] for _ in range(2)]
    folder.trial(asked[0].key).new_attempt().conclude({"state": "finished"})
    options = RunOptions(storage=tmp_path, gpus_per_trial=0.0, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    show_plan(study, options, as_json=True, calibrate=False)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["signature"], row["role"], row["state"]) for row in rows] == [
        (asked[0].signature, "search", "deliver"),
        (asked[1].signature, "search", "new"),
    ]
    show_plan(study, options, as_json=False, calibrate=False)
    said = capsys.readouterr().out
    assert f"{asked[1].signature}  new        asked by search search" in said
    assert "search search: 5 trials; 2 asked, 0 told, 0 epochs spent" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "tpee"}, "unknown sampler"),
        ({"scheduler": "x"}, "unknown scheduler"),
        ({"trials": 0}, "--trials 0"),
    ],
)
def test_plan_and_run_refuse_a_search_before_anything_is_written(change: dict, message: str, tmp_path: Path):
    study, options = Study("toy", (), (), (replace(SEARCH, **change),)), RunOptions("http://127.0.0.1:9", tmp_path)
    with pytest.raises(ConfigError, match=message):
        show_plan(study, options, as_json=True, calibrate=False)
    with pytest.raises(ConfigError, match=message):
        run(study, options)
    assert list(tmp_path.iterdir()) == []


def test_the_space_stands_on_the_parent():
    assert "laresa.space" not in describe(STUDY)
    tags = describe(Study("toy", (), (), (SEARCH,)))
    assert list(json.loads(tags["laresa.space"])) == ["lr"]
    assert tags["laresa.trials"] == "5"


@pytest.mark.slow
def test_measured_epochs_of_any_sweep_tell_the_time_of_the_next(server: str, tmp_path: Path):
    data = draw_pictures(tmp_path / "timed")  # which no sweep of another test has seen
    before = laresa("plan", *ablation("timed", data, "ce"), cwd=tmp_path).stdout
    assert "--calibrate" in before
    laresa("run", *ablation("timed", data, "ce"), cwd=tmp_path)
    after = laresa("plan", *ablation("timed-more", data, "ce"), "--set", "lr=0.01", cwd=tmp_path).stdout
    assert "time: about" in after

    (record,), plan = trials("timed"), Sweep.open("timed").plan
    config = record.config
    (seconds,) = estimating.measured_seconds([config], server, gpu=False).values()
    assert seconds == record.metrics["seconds/epoch"]
    assert estimating.measured_seconds([config.replace(batch_size=7)], server, gpu=False) == {}
    assert estimating.measured_seconds([config], server, gpu=True) == {}
    assert plan is not None
    assert (plan["trials"], plan["epochs"]) == ((1, 1), (3, 3))


@pytest.mark.slow
def test_calibration_trains_some_steps(pictures: Path, laresa_home: Path, monkeypatch: pytest.MonkeyPatch):
    """A whole epoch of a small data set; of a larger one a part, from which the whole is reckoned."""
    config = TrialConfig(
        dataset=str(pictures), subset="ce", backbone="test_vit", input_size=32, batch_size=16, epochs=1
    )
    whole = load(config)
    assert calibrating.shortened(config, whole) is whole
    found = calibrating.calibrate(config, 1, "cpu")
    assert found.seconds > 0
    assert found.gib is None
    with pytest.raises(ConfigError):
        calibrating.calibrate(config.replace(backbone="no_such_backbone"), 1, "cpu")
    large = config.replace(dataset="emoji120", batch_size=8)
    few = calibrating.shortened(large, load(large))
    assert (len(few.train), len(few.val), len(few.test)) == (96, 8, 8)
    assert len(few.train.labels.unique()) > 60  # of all classes, as far as they go
    whole, steps = load(large), iter([Measurement(1, {}, 9.0), Measurement(2, {}, 2.0)])
    monkeypatch.setattr(training, "train", lambda *given, **named: steps)
    reckoned = 2.0 * (len(whole.train) + len(whole.val) / 3) / (96 + 8 / 3)
    assert calibrating.calibrate(large, 1, "cpu").seconds == pytest.approx(reckoned)


def test_what_a_study_fills_is_reckoned_from_its_networks_images_and_epochs():
    """ResNet-50 has 23.5 million parameters, and a layer to 384; CIFAR-100 60,000 images, its test part kept twice."""
    config = TrialConfig(dataset="cifar100", backbone="resnet50", subset="ce", epochs=100)
    parameters = network_parameters(config)
    assert parameters == 23_508_032 + 2048 * 384
    options = RunOptions(latents_every=50)
    found = footprint([config, config.replace(seed=1)], options, 1, network_parameters)
    weights, latents = 4 * parameters, 4 * 384 * 5000
    assert found.artifacts == 2 * (weights + latents + 3 * 2000 * 384 * 2)
    assert (found.storage, found.decoded, found.rows) == (4 * weights, 60_000 * 3 * 32**2, 2 * 100 * 10)
    assert footprint([config], RunOptions(keep_weights="none"), 1, network_parameters).artifacts == latents
    long = footprint([config.replace(subset="ce+anchor", epochs=1000)], options, 1, network_parameters)
    assert long.rows == 200 * 16  # longer histories are thinned
    assert found.lines()[0].startswith(
        "disk: about 219 MB of artifacts in MLflow (--keep-weights), 389 MB of checkpoints while 1 runs"
    )
    unknown = footprint([config.replace(backbone="not_timms")], options, 1, network_parameters)
    assert (unknown.artifacts, unknown.storage) == (None, None)
    assert unknown.lines() == [
        "disk: about 184 MB of decoded images on each node",
        "MLflow: about 1,000 rows of metrics",
    ]

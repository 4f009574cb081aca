"""Which device a trial gets and how much of it, room before it begins, and what runs out of it."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution

from laresa import training
from laresa.config import TrialConfig
from laresa.errors import ConfigError, LaresaError
from sweeps import ablation, trials
from sweeps.cli.main import main
from sweeps.cli.plan import show_plan
from sweeps.options import run_options
from sweeps.service.driver import tune as tuning
from sweeps.service.driver.runner import anything_left, halved, run
from sweeps.service.planning import estimate as estimating
from sweeps.service.planning import gpus as planning
from sweeps.service.planning.gpus import Gpus, decided
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Cell, PlannedTrial, Replicate, RunOptions, Search, Study
from sweeps.service.tracking.client import client
from sweeps.service.tracking.write import SweepRun
from sweeps.service.worker import calibrate as calibrating
from sweeps.service.worker import gpu_memory as gpu
from sweeps.service.worker import trial as worker_trial
from sweeps.service.worker.device import VISIBLE, trial_device
from sweeps.service.worker.members import TrialContext
from sweeps.service.worker.plugins import pack
from sweeps.service.worker.trial import TuneTrial
from tests.sweeps.conftest import ablation as given_settings

CUDA = torch.device("cuda", 0)
CE = TrialConfig(subset="ce", epochs=2)
STUDY = Study("toy", (Cell("ce", CE),), tuple(Replicate(seed, 0) for seed in range(30)))
NO_GPU = Gpus(0.0, 0.0, lambda: None)
EIGHT = Gpus(8.0, 128.0, lambda: 80.0)


def options_of(*given: str) -> RunOptions:
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    return run_options(parser.parse_args(given))


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1.5", "2", "1e-05", "many"])
def test_a_number_of_gpus_that_can_not_be_is_named(value: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "ablation", f"--gpus-per-trial={value}"]) == 2
    said = capsys.readouterr().err
    assert "--gpus-per-trial" in said
    assert value.strip("-") in said
    assert "expected auto, 0 for the CPU" in said


@pytest.mark.parametrize("option", ["--cpus-per-trial", "--gpu-memory-per-trial"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_cpus_and_memory_are_numbers_greater_than_zero(option: str, value: str):
    with pytest.raises(ConfigError, match=f"{option} {value}: expected .*greater than 0"):
        options_of(f"{option}={value}")


def test_auto_is_the_default_and_a_stated_memory_stands_alone():
    assert options_of().gpus_per_trial is None
    assert options_of("--gpus-per-trial", "auto", "--gpu-memory-per-trial", "4").gpu_memory_per_trial == 4
    assert options_of("--gpus-per-trial", "0").gpus == 0
    with pytest.raises(ValueError, match="still auto"):
        _ = options_of().gpus
    with pytest.raises(ConfigError, match=r"--gpu-memory-per-trial 4 and --gpus-per-trial 0\.5: expected one of them"):
        options_of("--gpu-memory-per-trial", "4", "--gpus-per-trial", "0.5")


# ---------------------------------------------------------------------- how much of a GPU


@pytest.mark.parametrize(
    ("options", "there", "peak", "gpus", "said"),
    [
        (RunOptions(), NO_GPU, None, 0.0, "cpu: no GPU here"),
        (RunOptions(), EIGHT, None, 1.0, "cuda, one trial a GPU"),
        (RunOptions(gpus_per_trial=0.0), EIGHT, None, 0.0, "cpu"),
        (RunOptions(gpus_per_trial=0.5), NO_GPU, None, 0.5, "cuda, 0.5 GPU each"),
        # 15.2 GiB with head room and CUDA's own are 18.74 of 80; and 30 trials lie on 8 GPUs by four.
        (RunOptions(), EIGHT, 15.2, 0.25, "cuda, 0.25 GPU each (measured 15.2 GiB)"),
        (RunOptions(), replace(EIGHT, count=1.0), 15.2, 0.24, "cuda, 0.24 GPU each (measured 15.2 GiB)"),
        (RunOptions(concurrency=6), EIGHT, 15.2, 1.0, "cuda, one trial a GPU (measured 15.2 GiB)"),
        (RunOptions(), EIGHT, 79.0, 1.0, "cuda, one trial a GPU"),  # measured on a greater one
        (RunOptions(), replace(EIGHT, smallest=lambda: None), 15.2, 1.0, "cuda, one trial a GPU"),  # none answered
        (RunOptions(gpu_memory_per_trial=39.0), EIGHT, 15.2, 0.5, "cuda, 0.5 GPU each (39 GiB as stated)"),
    ],
)
def test_what_auto_becomes(
    options: RunOptions, there: Gpus, peak: float | None, gpus: float, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(planning, "measured_memory", lambda configs, uri: peak)
    found, device = decided(options, STUDY, None, lambda options: there)
    assert (found.gpus, device) == (gpus, said)


def test_few_trials_lie_on_all_gpus():
    """Ray fills one GPU before it begins the next: a share that is too small would leave the others idle."""
    for trials_, gpus in ((1, 8), (8, 8), (9, 8), (30, 8), (7, 3), (1000, 8)):
        there = Gpus(float(gpus), 24.0, lambda: 80.0)
        fraction = planning.spread(RunOptions(), trials_, there)
        at_once = min(trials_, 24)
        full = math.floor(1 / fraction + 1e-9)
        assert full * gpus >= at_once  # all find a place
        assert (full - 1) * gpus < at_once  # and none would, were they any wider apart


def test_what_can_not_be_decided_is_refused():
    with pytest.raises(ConfigError, match=r"auto: no host that could train is up.*give 1 to ask the autoscaler"):
        decided(RunOptions(), STUDY, None, lambda options: replace(NO_GPU, could_train=False))
    with pytest.raises(ConfigError, match="--gpu-memory-per-trial 4: no host that is up has a GPU"):
        decided(RunOptions(gpu_memory_per_trial=4.0), STUDY, None, lambda options: NO_GPU)
    with pytest.raises(ConfigError, match=r"--gpu-memory-per-trial 80: the smallest GPU has 80\.0 GiB"):
        decided(RunOptions(gpu_memory_per_trial=80.0), STUDY, None, lambda options: EIGHT)


def test_memory_is_known_where_all_of_a_study_was_measured(monkeypatch: pytest.MonkeyPatch):
    def ran(*peaks: str) -> list[SimpleNamespace]:
        tags = [{"laresa.gpu_memory_gib": peak} if peak else {} for peak in peaks]
        return [SimpleNamespace(data=SimpleNamespace(tags=tag)) for tag in tags]

    found = [("a", ran("1.50", "2.25", "")), ("b", ran("0.75"))]
    monkeypatch.setattr(estimating, "_alike", lambda configs, uri, gpu: found)
    assert estimating.measured_memory([], None) == 2.25
    found.append(("c", ran("")))
    assert estimating.measured_memory([], None) is None
    found.clear()
    assert estimating.measured_memory([], None) is None
    monkeypatch.setattr(planning, "measured_memory", lambda configs, uri: 4.0)
    search = Search("s", CE, {"lr": FloatDistribution(1e-4, 1e-2)}, 5, Replicate(0, 0))
    assert planning._peak_of(Study("toy", (), (), (search,)), None) == 4.0
    wider = replace(search, space={"batch_size": CategoricalDistribution([16, 512])})
    assert planning._peak_of(Study("toy", (), (), (wider,)), None) is None  # what it will ask was not measured


@pytest.mark.parametrize(("needed", "fraction"), [(4.5, 0.21), (1.5, 0.09), (11.5, 0.5), (12.0, 0.53)])
def test_a_need_becomes_a_fraction_that_fits(needed: float, fraction: float):
    assert planning.share(needed, 24.0) == fraction
    assert int(1 / fraction) * (needed + planning.CONTEXT_GIB) <= 24.0


def test_the_plan_states_the_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def said(*given: str) -> list[str]:
        options = replace(options_of(*given), storage=tmp_path, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
        show_plan(STUDY, options, as_json=False, calibrate=False)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("device", "time"))]

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert said()[0] == "device: cpu: no GPU here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert said()[0] == "device: cuda, one trial a GPU"
    assert said("--gpus-per-trial", "0")[0] == "device: cpu"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    device, time_ = said()
    assert device.startswith("device: known once the sweep joins the Ray cluster at 10.0.0.5:6379")
    assert time_ == "time: depends on the device; give --gpus-per-trial to see it"
    assert said("--gpus-per-trial", "1")[0] == "device: cuda, one trial a GPU"


def test_calibration_on_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--calibrate: trials would use a GPU and this machine has none"):
        calibrating.calibrate(CE, 1, "cuda")


# ---------------------------------------------------------------------- the device on a worker


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray with two logical GPUs that was told to hide none from anybody: the strictest case."""
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "1")
    ray.init(num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
    yield
    ray.shutdown()


def pretend_cuda() -> None:
    """On a worker: a torch that sees the GPUs which are visible, of two."""
    seen = lambda: len([name for name in os.environ.get(VISIBLE, "0,1").split(",") if name])  # noqa: E731
    torch.cuda.device_count = seen  # type: ignore[assignment]
    torch.cuda.is_available = lambda: seen() > 0


class Worker:
    def device(self, gpus: float) -> tuple[str, str, list[str], bool]:
        pretend_cuda()
        device = trial_device(gpus)
        return (
            str(device),
            os.environ[VISIBLE],
            [str(number) for number in ray.get_gpu_ids()],
            torch.cuda.is_available(),
        )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_trial_touches_the_device_it_was_given_and_no_other(two_gpus: None):
    made = [ray.remote(Worker).options(num_cpus=1, num_gpus=gpus).remote() for gpus in (0, 1, 1)]
    cpu, *cuda = ray.get([worker.device.remote(gpus) for worker, gpus in zip(made, (0, 1, 1), strict=True)])
    assert cpu == ("cpu", "", [], False)
    assert sorted(cuda) == [("cuda:0", "0", ["0"], True), ("cuda:0", "1", ["1"], True)]


def test_a_device_that_is_not_there_is_named_with_its_host(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.setattr("platform.node", lambda: "gpu-host")
    for given, visible, message in (
        ([1], 0, "gpu-host: Ray gave a trial GPU 1, torch .* finds no CUDA there"),
        ([1], 2, "gpu-host: Ray gave a trial GPU 1, but torch sees 2"),
        ([], 1, "gpu-host: expected one GPU from Ray for a trial, was given none"),
    ):
        monkeypatch.setattr(ray, "get_gpu_ids", lambda given=given: given)
        monkeypatch.setattr(torch.cuda, "device_count", lambda visible=visible: visible)
        monkeypatch.setattr(torch.cuda, "is_available", lambda visible=visible: visible > 0)
        with pytest.raises(LaresaError, match=message):
            trial_device(0.5)


def test_a_trial_without_a_gpu_trains_on_the_cpu_of_a_host_that_has_some(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def never() -> torch.device:
        raise AssertionError("a trial's device is the one it was given")

    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ[VISIBLE] != "")
    monkeypatch.setattr(training, "default_device", never)
    sweep = SweepRun(f"sqlite:///{tmp_path}/mlflow.db", "toy", "0", "0")
    folder = SweepFolder(tmp_path / "toy")
    folder.root.mkdir()
    folder.write("plan.json", {})
    context = TrialContext(sweep, folder.place, 1.0, {}, 0.0)
    config = CE.replace(dataset=str(pictures), backbone="test_vit", input_size=32, batch_size=16, epochs=1)
    given = {"trials": [PlannedTrial("ce", config).to_dict()], "halving": None, "context": context.to_dict()}
    trial = object.__new__(TuneTrial)  # without Tune around it
    trial.setup(given, pack(()))
    trial._writer.stop(0.0)
    assert trial.step()["epoch"] == 1
    assert trial._session.method.single.device == torch.device("cpu")
    assert os.environ[VISIBLE] == ""


# ---------------------------------------------------------------------- room, and no room


def test_a_trial_waits_for_room_and_gives_up(monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr(gpu.time, "sleep", slept.append)
    free = iter([1.0, 2.0, 5.0])
    gpu.wait_for_room(CUDA, 4.0, lambda device: next(free))
    assert len(slept) == 2
    monkeypatch.setattr(gpu, "ROOM_SECONDS", -1.0)
    with pytest.raises(torch.OutOfMemoryError, match=r"1.0 GiB are free on cuda:0, the trial was said to need 4"):
        gpu.wait_for_room(CUDA, 4.0, lambda device: 1.0)
    gpu.wait_for_room(CUDA, None, lambda device: 0.0)
    gpu.wait_for_room(torch.device("cpu"), 4.0, lambda device: 0.0)
    assert gpu.peak_gib(torch.device("cpu")) is None


def test_a_half_batch_that_is_asked_for_later_is_still_to_train(tmp_path: Path):
    folder, cell = SweepFolder(tmp_path), Cell("ce", TrialConfig(subset="ce", batch_size=16))
    study = Study("s", (cell,), (Replicate(0, 0),))
    (trial,) = study.trials()
    assert anything_left(study, folder, RunOptions())
    outcome = {"state": "failed", "error": "OutOfMemoryError: CUDA out of memory", "metrics": {}, "history": []}
    folder.trial(trial.key).new_attempt().conclude(outcome)
    assert not anything_left(study, folder, RunOptions())
    assert anything_left(study, folder, RunOptions(halve_batch=True))
    smaller = halved(study, trial, folder)
    assert smaller is not None
    assert (smaller.config.batch_size, smaller.arm) == (8, "ce")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_out_of_memory_alone_on_a_whole_gpu_then_half_the_batch(
    server: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two trials share a logical GPU. One arm needs it alone; another needs half the batch even then."""

    def pretended(gpus: float) -> torch.device:
        pretend_cuda()
        assert trial_device(gpus) == CUDA
        torch.cuda.is_available = lambda: False  # what trains is a CPU after all
        return torch.device("cpu")

    class Hungry(TuneTrial):
        def _begin(self, config):
            worker_trial.trial_device = pretended
            super()._begin(config)
            session = self._session
            trial, alone = session.first.trial, session.context.gpus == 1

            def full():
                session.first.attempt.check()
                raise torch.OutOfMemoryError("CUDA out of memory")

            if (trial.arm != "ce" and not alone) or (trial.arm == "ce+triplet" and trial.config.batch_size > 8):
                session._start = full

    monkeypatch.setattr(tuning, "TuneTrial", Hungry)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # workers find this module
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    _, *study = given_settings("oom_shared_gpu", pictures, "ce,ce+anchor,ce+triplet", epochs=2)
    args = parser.parse_args([*study, "--gpus-per-trial", "0.5", "--halve-batch"])
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=40)
    try:
        result = run(ablation.build(args), run_options(args))
    finally:
        ray.shutdown()
    assert result.states == {"finished": 3, "failed": 1}
    found = {(r.arm, r.config.batch_size): r for r in trials("oom_shared_gpu")}
    assert {key: r.state for key, r in found.items()} == {
        ("ce", 16): "finished",
        ("ce+anchor", 16): "finished",
        ("ce+triplet", 16): "failed",
        ("ce+triplet", 8): "finished",
    }
    assert found["ce+triplet", 16].error == "OutOfMemoryError: CUDA out of memory"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_gpu_hours_end_a_sweep_and_the_rest_is_trained_later(
    server: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Pretended(TuneTrial):
        def _begin(self, config):
            worker_trial.trial_device = lambda gpus: torch.device("cpu")
            super()._begin(config)

    monkeypatch.setattr(tuning, "TuneTrial", Pretended)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # workers find this module
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    _, *words = given_settings("budgeted", pictures, "ce,ce+anchor,ce+reg", epochs=40)
    args = parser.parse_args([*words, "--gpus-per-trial", "1", "--max-gpu-hours", "0.0001"])  # 0.36 s
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=40)
    ended = run(ablation.build(args), run_options(args))  # which leaves that Ray
    assert ended.stopped
    assert ended.budget.startswith("--max-gpu-hours 0.0001 are spent (0.00")
    assert ended.states["not started"] == 2  # one at a time: a GPU each
    (parent,) = client(server).search_runs([ended.sweep.experiment_id], "tags.`laresa.kind` = 'sweep'")
    assert float(parent.data.tags["laresa.gpu_hours"]) >= 0.0001
    args = parser.parse_args([*words, "--gpus-per-trial", "0"])
    assert run(ablation.build(args), run_options(args)).states == {"finished": 3}

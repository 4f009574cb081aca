"""Sharing GPUs: fractions from stated memory, room before a trial begins, and what runs out of it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import ray
import torch

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from sweeps import ablation, trials
from sweeps.options import run_options
from sweeps.service.driver import tune as tuning
from sweeps.service.driver.runner import anything_left, halved, run
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Cell, Replicate, RunOptions, Study
from sweeps.service.worker import gpu_memory as gpu
from sweeps.service.worker.trial import TuneTrial
from tests.sweeps.conftest import QUICK

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(("needed", "fraction"), [(4.5, 0.21), (1.5, 0.09), (11.5, 0.5), (12.0, 0.53)])
def test_a_need_becomes_a_fraction_that_fits(needed: float, fraction: float):
    assert gpu.share(needed, 24.0) == fraction
    assert int(1 / fraction) * (needed + gpu.CONTEXT_GIB) <= 24.0


def test_a_need_greater_than_the_gpu_is_refused():
    with pytest.raises(ConfigError, match=r"--gpu-memory-per-trial 24: the smallest GPU has 24\.0 GiB"):
        gpu.share(24.0, 24.0)


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


def test_memory_and_fraction_exclude_each_other():
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    for given in (["--gpu-memory-per-trial", "4", "--gpus-per-trial", "0.5"], ["--gpu-memory-per-trial", "0"]):
        with pytest.raises(ConfigError, match="--gpu-memory-per-trial"):
            run_options(parser.parse_args(given))
    assert gpu.packed(RunOptions(gpus_per_trial=0.5)) == RunOptions(gpus_per_trial=0.5)


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

    class Hungry(TuneTrial):
        def _begin(self, config):
            super()._begin(config)
            session = self._session
            alone, arm, batch = session.context.gpus == 1, session.arm, session.config.batch_size

            def full():
                session.attempt.check()
                raise torch.OutOfMemoryError("CUDA out of memory")

            if (arm != "ce" and not alone) or (arm == "ce+triplet" and batch > 8):
                session._start = full

    monkeypatch.setattr(tuning, "TuneTrial", Hungry)
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    study = [
        "--sweep",
        "oom_shared_gpu",
        "--dataset",
        str(pictures),
        "--subsets",
        "ce,ce+anchor,ce+triplet",
        "--seeds",
        "0",
    ]
    args = parser.parse_args([*study, "--epochs", "2", "--gpus-per-trial", "0.5", "--halve-batch", *QUICK])
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

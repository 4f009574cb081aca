"""The trials of a plan through Ray Tune: it schedules workers and keeps nothing that matters."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from sweeps.service.options import RunOptions
from sweeps.service.storage import SweepFolder
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking import SweepRun
from sweeps.service.trial import TrialContext, TuneTrial
from sweeps.service.watch import Watch

WORKER_DEATHS = 3  # how often a trial is given to a new worker after its own died

# Tune reads these when a run begins. Its file loggers and result files serve nobody here; results are fetched
# together, a second's worth at a time, since the tracker gets every epoch from the worker itself.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "1000")
os.environ.setdefault("TUNE_RESULT_BUFFER_MIN_TIME_S", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints a banner at verbosity 0; Watch is our output
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")


class PlanSearch(Searcher):
    """Hands Tune the planned trials, one after another."""

    def __init__(self, trials: Sequence[PlannedTrial], context: TrialContext) -> None:
        super().__init__(metric="val/top1", mode="max")
        self._left, self._context = list(trials), context.to_dict()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if not self._left:
            return Searcher.FINISHED
        trial = self._left.pop(0)
        return {"arm": trial.arm, "config": trial.config.to_dict(), "context": self._context}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        return None

    def save(self, checkpoint_path: str) -> None:
        return None

    def restore(self, checkpoint_path: str) -> None:
        return None


class Reporter(tune.Callback):
    """Tune's events for the Watch, and the seconds spent inside training."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.training_seconds = watch, 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's snapshots, which nobody restores: a terminal can't be pickled

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.watch.started(trial.trial_id, trial.config["arm"], trial.config["config"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.training_seconds += result.get("seconds", 0.0)
        self.watch.result(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.watch.lost(trial.trial_id)


def run_trials(
    pending: Sequence[PlannedTrial],
    sweep: SweepRun,
    folder: SweepFolder,
    options: RunOptions,
    tags: Mapping[str, str],
    watch: Watch,
) -> tuple[int, float]:
    """Train `pending` on the connected Ray; (concurrency, seconds inside training)."""
    concurrency = options.concurrency or fitting(options)
    context = TrialContext(sweep, str(folder.root), options.cpus_per_trial, tags)
    reporter = Reporter(watch)
    resources = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="laresa-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TuneTrial, resources),
            tune_config=tune.TuneConfig(
                search_alg=PlanSearch(pending, context),
                num_samples=-1,
                max_concurrent_trials=concurrency,
                reuse_actors=True,  # a fresh worker costs seconds of importing torch
            ),
            run_config=tune.RunConfig(
                name=sweep.sweep,
                storage_path=scratch,
                callbacks=[reporter],
                failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
                verbose=0,
            ),
        )
        with watch:
            tuner.fit()
    return min(concurrency, len(pending)), reporter.training_seconds


def fitting(options: RunOptions) -> int:
    """How many trials the cluster's CPUs and GPUs hold at once."""
    total = ray.cluster_resources()
    places = [total.get("CPU", 0) / options.cpus_per_trial]
    if options.gpus_per_trial:
        places.append(total.get("GPU", 0) / options.gpus_per_trial)
    return max(1, math.floor(min(places) + 1e-9))

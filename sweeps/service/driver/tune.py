"""The trials of a source through Ray Tune: it schedules workers and keeps nothing that matters."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray import tune

from laresa.errors import LaresaError
from laresa.files import cant_write, is_full
from laresa.plugins import loaded
from sweeps.service.driver.connection import fitting
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.progress import ProgressDisplay
from sweeps.service.driver.schedulers import InOrder, PerSearch
from sweeps.service.driver.shares import Shares
from sweeps.service.driver.source_search import SourceSearch
from sweeps.service.driver.spending import Spending
from sweeps.service.driver.wishes import Wishes
from sweeps.service.search.sources import Source
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial, RunOptions
from sweeps.service.tracking.write import SweepRun
from sweeps.service.worker.members import TrialContext
from sweeps.service.worker.plugins import pack
from sweeps.service.worker.trial import TuneTrial

PENDING_SECONDS = 30.0  # without a running trial, after which the reason is told
WAITING, WAITING_SEARCH = 16, 2  # trials asked for before there is a place for them
WORKER_DEATHS = 3  # how often a trial is given to a new worker after its own died

# Tune reads these when a run begins. Its file loggers and result files serve nobody here.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # GracefulInterrupt hears Ctrl-C
os.environ.setdefault(
    "RAY_AIR_NEW_OUTPUT", "0"
)  # the new one prints a banner at verbosity 0; ProgressDisplay is our output


def explain_pending(asks: Mapping[str, float], exists: Mapping[str, float]) -> str:
    """Why no trial runs, as far as the cluster's resources tell."""
    wanted, there = (", ".join(f"{r.get(name, 0):g} {name}" for name in ("CPU", "GPU")) for r in (asks, exists))
    if asks.get("GPU", 0) > 0 and not exists.get("GPU"):
        advice = "no host here has a GPU: wait for the autoscaler to bring one, or give --gpus-per-trial 0"
    elif any(asks.get(name, 0) > exists.get(name, 0) for name in ("CPU", "GPU")):
        advice = "it can't fit: ask for less, or wait for more hosts (`ray status`)"
    else:
        advice = "others may hold it (`ray status`), or workers are slow to start"
    return f"no trial has run for {PENDING_SECONDS:.0f} s. One asks for {wanted}; the cluster has {there}: {advice}"


def _why(trial: Any) -> str:
    """What ended a trial that was not the trial's own doing, in a line."""
    error = str(trial.get_error() or "").strip().splitlines()
    return error[-1].strip() if error and "ActorDied" not in error[-1] else "its worker died"


class StopAfterEpoch(tune.Stopper):
    """Once the user has asked for it, a trial ends with the epoch it is in; what has not begun does not begin. One that
    gives way to another sweep ends likewise, and is given again."""

    def __init__(self, interrupt: GracefulInterrupt, display: ProgressDisplay, search: SourceSearch) -> None:
        self._interrupt, self._display, self._search = interrupt, display, search
        self._last: set[str] | None = None  # the groups that ran when it was asked

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._interrupt.requested or self._search.gives_way(trial_id)

    def stop_all(self) -> bool:
        if not self._interrupt.requested:
            return False
        self._last = self._display.groups if self._last is None else self._last & self._display.groups
        return not self._last


class Reporter(tune.Callback):
    """Tune's events for the ProgressDisplay, what the sweep holds and asks for, and the seconds inside training."""

    def __init__(
        self,
        display: ProgressDisplay,
        interrupt: GracefulInterrupt,
        asks: Mapping[str, float],
        spending: Spending,
        search: SourceSearch,
        places: Callable[[], int],
    ) -> None:
        self.display, self.training_seconds = display, 0.0
        self._spending, self._search, self._places = spending, search, places
        self._interrupt, self._said = interrupt, False
        self._asks, self._idle_since, self._explained = asks, time.monotonic(), False
        self.most_running = 1

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a terminal can't be pickled

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._spending.hold(self._asks["GPU"] * len(self.display.groups))
        if why := self._spending.reached:
            self._interrupt.ask(why)
        self._search.tell(self._places)
        if self._interrupt.requested and not self._said:
            self._said = True
            why = f"{self._interrupt.why}; " if self._interrupt.why else ""
            kept = f"{len(self.display.running)} running trials end their epoch and keep it"
            self.display.say(f"stopping: {why}{kept}; Ctrl-C again stops at once")
        if self.display.running:
            self._idle_since, self._explained = time.monotonic(), False
        elif time.monotonic() - self._idle_since > PENDING_SECONDS:
            self._idle_since = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):  # Tune would wait for ever
                self.display.say("the Ray that trains here has died; what was measured is kept")
                raise KeyboardInterrupt
            if not self._explained:
                self._explained = True
                self.display.say(explain_pending(self._asks, ray.cluster_resources()))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._search.started(trial.trial_id)
        self.display.started(trial.trial_id, trial.config["trials"])
        self.most_running = max(self.most_running, len(self.display.groups))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.training_seconds += result.get("seconds", 0.0)
        self._search.heard(trial.trial_id, result.get("trials", ()))
        self.display.result(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.display.lost(trial.trial_id, _why(trial))


@dataclass(frozen=True)
class Ended:
    """How run_trials ended.

    concurrency: most groups at once. training_seconds: inside training, over all workers. stopped: by the user, or a
    budget.
    oom_shared_gpu: trials that ran out of the memory of a GPU which they shared, without an outcome.
    """

    concurrency: int
    training_seconds: float
    stopped: bool
    oom_shared_gpu: tuple[PlannedTrial, ...]


@contextlib.contextmanager
def _blaming_storage(folder: SweepFolder, search: SourceSearch) -> Iterator[None]:
    """Tune's own files lie on storage, too: where that can't be written, Tune fails in ways of its own."""
    try:
        yield
    except LaresaError:
        raise
    except Exception as error:
        if search.broken is not None:
            raise search.broken from error
        if isinstance(error, OSError) and is_full(error):
            raise cant_write(folder.root, error) from error
        raise


def run_trials(
    source: Source,
    sweep: SweepRun,
    folder: SweepFolder,
    options: RunOptions,
    tags: Mapping[str, str],
    display: ProgressDisplay,
    spending: Spending,
    scheduler: PerSearch | None = None,
) -> Ended:
    """Train what the source gives on the connected Ray."""
    interrupt, chosen = GracefulInterrupt(), scheduler or InOrder()
    context = TrialContext.of(sweep, folder, options, tags)
    shares = Shares(sweep.sweep, options.priority, options.gpus > 0, options.concurrency)
    search = SourceSearch(source, context, display, interrupt, shares)
    asks = {"CPU": options.cpus_per_trial, "GPU": options.gpus}
    reporter = Reporter(display, interrupt, asks, spending, search, partial(fitting, options))
    chosen.search = search
    # Where none stops trials, results are fetched a second's worth at a time; the tracker has all from the worker.
    buffered = scheduler is None
    os.environ["TUNE_RESULT_BUFFER_LENGTH"] = "1000" if buffered else "1"
    # An autoscaler brings hosts for trials that wait; a search is not asked far ahead of what it knows.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(WAITING if source.known else WAITING_SEARCH)
    os.environ["TUNE_RESULT_BUFFER_MIN_TIME_S"] = "1" if buffered else "0"
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_parameters(TuneTrial, plugins=pack(loaded()))
    with _blaming_storage(folder, search), folder.for_tune() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {name.lower(): count for name, count in asks.items()}),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=chosen,
                num_samples=-1,
                max_concurrent_trials=options.concurrency,  # None: as many as fit, on hosts that join later, too
                reuse_actors=True,  # a fresh worker costs seconds of importing torch
            ),
            run_config=tune.RunConfig(
                name=sweep.sweep,
                storage_path=scratch,
                callbacks=[reporter],
                stop=StopAfterEpoch(interrupt, display, search),
                failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
                verbose=0,
            ),
        )
        try:
            with interrupt, Wishes(sweep, interrupt, search.stopped), display:
                tuner.fit()
        finally:
            spending.write()
            shares.leave()
    if search.broken is not None:
        raise search.broken
    oom = tuple(search.oom_shared_gpu)
    return Ended(reporter.most_running, reporter.training_seconds, interrupt.requested, oom)

"""Study -> Ray Tune -> records. Run again = continue: nothing is trained twice, nothing measured is lost."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from laresa.errors import DamagedError, StorageError
from laresa.plugins import loaded
from sweeps.service.driver.code import SweepCode
from sweeps.service.driver.connection import connect, disconnect, places
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.nodes import require_shared_storage
from sweeps.service.driver.progress import ProgressDisplay
from sweeps.service.driver.request import anything_left, check_request, halved
from sweeps.service.driver.spending import BudgetReachedError, Spending
from sweeps.service.planning import plan as planning
from sweeps.service.planning.code import CodeBook, decide, keep_decision, planned_now
from sweeps.service.planning.estimate import actual_against_plan, note_plan
from sweeps.service.planning.gpus import cluster_address, on_cluster
from sweeps.service.planning.prepare import prepare
from sweeps.service.planning.reuse import check_same_data
from sweeps.service.provenance import provenance_tags
from sweeps.service.storage.files import SweepFolder, TrialFolder
from sweeps.service.study import Choice, PlannedTrial, RunOptions, Study
from sweeps.service.tracking import write as tracking
from sweeps.service.tracking.client import check, client
from sweeps.service.tracking.deliver import deliver
from sweeps.service.tracking.local_server import LocalServer
from sweeps.service.tracking.stops import forget_stops
from sweeps.service.tracking.sweep import tracked_runs, tracked_states
from sweeps.service.tracking.write import SweepRun, TrialRun
from sweeps.service.worker.plugins import pack

if TYPE_CHECKING:
    from sweeps.service.driver.tune import Ended
    from sweeps.service.search.budget import Searched
    from sweeps.service.search.optuna_source import OptunaSource
    from sweeps.service.search.sources import Capped

log = logging.getLogger("laresa.runner")


@dataclass(frozen=True)
class SweepResult:
    """What a finished `run` tells: counts by state, and the seconds the trials took. stopped: by the user or a budget.

    budget: which one is spent, where that stopped it.
    searched: a line for each search, with what it spent and where its choice is from.
    wall_seconds: from the first trial handed to Ray to the end of the last, the start of its workers included.
    """

    sweep: SweepRun
    states: Mapping[str, int]
    wall_seconds: float
    training_seconds: float
    concurrency: int
    stopped: bool = False
    budget: str = ""
    searched: tuple[str, ...] = ()

    @property
    def efficiency(self) -> float:
        """Seconds inside training over (concurrency x wall seconds of the sweep)."""
        return self.training_seconds / (self.concurrency * self.wall_seconds) if self.wall_seconds else float("nan")


def run(study: Study, options: RunOptions) -> SweepResult:
    """Train what the study still lacks and bring the tracker up to date.

    Raises SweepBusyError when another process runs it, TrackingError and ConfigError before anything is trained.
    """
    folder, shipment = check_request(study, options), pack(loaded())
    with folder.lock():
        planning.check_plan(study, folder)
        book, planned = CodeBook(folder), planned_now(study, folder, options)
        study = decide(study, book, planned, folder.keys(), options)
        uri, server = resolve_tracking(options.tracking_uri)
        try:
            left, overlap = anything_left(study, folder.snapshot(), options), dict[str, str]()
            if left:
                with ThreadPoolExecutor(1) as thread:  # Ray and the local server start meanwhile
                    prepared = thread.submit(prepare, study, here=cluster_address() is None)
                    connect()
                    require_shared_storage(folder)
                    overlap = prepared.result()
            if server is not None:
                uri = server.wait(uri)
            check(uri)
            if left:
                options = on_cluster(options, study, uri)
            runs = tracked_runs(study.name, uri)
            study = decide(study, book, planned, {*folder.keys(), *runs}, options)
            evidence = planning.write_plan(study, folder)
            keep_decision(study, book, planned, folder)
            tags = {**describe(study), **evidence.tags(), **book.tags()}
            tags |= {"laresa.overlap": json.dumps(overlap)} if overlap else {}
            sweep = tracking.open_sweep(uri, study.name, tags)
            api = client(uri)
            tracking.keep_plugins(api, sweep, shipment.files, shipment.digests)
            return Runner(study, options, folder, sweep, SweepCode(api, sweep, folder, options, book, runs)).run()
        finally:
            disconnect()


class Runner:
    """One run of a sweep: its searches, then its fixed plan, then the settling of what the tracker shows."""

    def __init__(
        self, study: Study, options: RunOptions, folder: SweepFolder, sweep: SweepRun, code: SweepCode
    ) -> None:
        self.study, self.options, self.folder, self.sweep, self.code = study, options, folder, sweep, code
        self.api, self.tags = client(sweep.uri), provenance_tags()
        self.spending = Spending(folder, options)
        self.wall = self.training = 0.0
        self.concurrency = 1
        self.total, self.searched = study.size, list[str]()
        self.halved: list[PlannedTrial] = []  # planned here, in place of what a whole GPU was too small for

    def run(self) -> SweepResult:
        try:
            return self._run()
        except StorageError:
            disconnect()
            self._close_runs()
            raise

    def _run(self) -> SweepResult:
        from sweeps.service.search.optuna_source import OptunaSource
        from sweeps.service.search.sources import FixedPlan

        note_plan(self.study, self.options, self.folder, self.sweep.uri)
        check_same_data(self.api, self.sweep.experiment_id, [search.base for search in self.study.searches])
        stopped, budget = False, ""
        forget_stops(self.api, self.sweep)
        reuse_one, find = self._reuse_one, self.study.find
        searches = [OptunaSource(search, self.folder, reuse_one, find) for search in self.study.searches]
        try:
            study = self.study.chosen(self._search(searches)) if searches else self.study
            if searches:
                self.code.decide(study)
            rows = planning.plan(study, self.folder, self.code.tracked, self._reuse_left)
            pending = [row.trial for row in rows if not row.done]
            done = sum(row.done for row in rows) + self._told(searches)
            if pending:
                self._train(FixedPlan(pending), done)
            elif not searches:
                ProgressDisplay(study.name, done, self.total)
            if self.options.halve_batch:
                self._halve(study.trials())
        except KeyboardInterrupt:
            stopped = True
        except BudgetReachedError as reached:
            stopped, budget = True, str(reached)
        with GracefulInterrupt() as late:  # a press that comes now would leave runs open that nobody trains
            if stopped:
                disconnect()
            states = self._settle(searches)
            if self.spending.seconds:
                self.api.set_tag(self.sweep.parent_run_id, "laresa.gpu_hours", f"{self.spending.hours:.4g}")
            self.api.set_tag(self.sweep.parent_run_id, "laresa.plan", json.dumps(actual_against_plan(self.folder)))
            whole = set(states) <= {"finished", "pruned"}
            self.api.set_terminated(self.sweep.parent_run_id, "FINISHED" if whole else "FAILED")
        said = tuple(self.searched)
        return SweepResult(
            self.sweep, states, self.wall, self.training, self.concurrency, stopped or late.requested, budget, said
        )

    def _search(self, sources: Sequence[OptunaSource]) -> dict[str, Choice]:
        """Ask and train until the budgets are spent or the hours are over; what is chosen, by arm."""
        from sweeps.service.driver.schedulers import scheduler_of
        from sweeps.service.search.budget import ending
        from sweeps.service.search.optuna_source import Interleaved

        turns, searches = Interleaved(sources, self._seconds()), self.study.searches
        after = sum(cell.config.epochs for cell in self.study.cells) * len(self.study.replicates)
        searched = partial(turns.searched, after) if any(search.by_epochs for search in searches) else None
        if turns.finished:
            ProgressDisplay(self.study.name, self._told(sources), self.total, searched=searched)
        else:
            self._train(turns, self._told(sources), scheduler_of(searches), searched)
        chosen = self._choices(sources)
        for source in sources:
            choice = chosen.get(source.search.name)
            self.searched.append(ending(source.search, source.spent, choice))
            if choice and choice.how != "finished":
                log.warning("search %s", self.searched[-1])
        self.total = self._told(sources) + len(self.study.cells) * len(self.study.replicates)
        return chosen

    def _choices(self, sources: Iterable[OptunaSource]) -> dict[str, Choice]:
        """By arm; none where there is no arm to choose for."""
        from sweeps.service.search.budget import choose

        return {s.search.name: choose(s.study, s.search) for s in sources} if self.study.cells else {}

    def _reuse_one(self, trial: PlannedTrial) -> PlannedTrial:
        self.code.reuse([trial])
        return self.study.find(trial)

    def _reuse_left(self, left: Sequence[PlannedTrial]) -> set[str]:
        """What other sweeps finished is not trained again; refused where this sweep's own data have changed since."""
        check_same_data(self.api, self.sweep.experiment_id, [trial.config for trial in left])
        return self.code.reuse(left)

    def _train(
        self, source: Any, done: int, scheduler: Any = None, searched: Callable[[], Searched] | None = None
    ) -> None:
        from sweeps.service.search.groups import in_groups
        from sweeps.service.search.sources import Capped, Requeued

        searches = self.study.searches if not source.known else ()
        capped = Capped(source, self.options.max_trials, done)
        self._check_withheld(capped)
        self.spending.check(self.options.gpus)
        source = in_groups(capped, places(self.options), searches)
        display = ProgressDisplay(self.study.name, done, self.total, searched=searched)
        ended = self._run_trials(source, self.options, display, scheduler)
        self.concurrency = ended.concurrency
        if ended.oom_shared_gpu:
            again = ProgressDisplay(self.study.name, display.done, self.total)
            exclusive = replace(self.options, gpus_per_trial=1.0)
            self._run_trials(Requeued(ended.oom_shared_gpu, source), exclusive, again)
        self._check_withheld(capped)

    def _check_withheld(self, capped: Capped) -> None:
        if capped.withheld:
            raise BudgetReachedError(
                f"--max-trials {self.options.max_trials}: the sweep has as many; a greater number continues"
            )

    def _run_trials(self, source: Any, options: RunOptions, display: ProgressDisplay, scheduler: Any = None) -> Ended:
        from sweeps.service.driver.tune import run_trials

        began = time.monotonic()
        ended = run_trials(source, self.sweep, self.folder, options, self.tags, display, self.spending, scheduler)
        self.wall += time.monotonic() - began
        self.training += ended.training_seconds
        if ended.stopped and self.spending.reached:
            raise BudgetReachedError(self.spending.reached)
        if ended.stopped:
            raise KeyboardInterrupt
        return ended

    def _halve(self, trials: Sequence[PlannedTrial]) -> None:
        """Half the batch, and again half, for what ran out of a whole GPU's memory."""
        from sweeps.service.search.sources import FixedPlan

        while smaller := [half for trial in trials if (half := halved(self.study, trial, self.folder)) is not None]:
            self.halved += smaller
            log.warning("%d trials go on with half the batch: not the configuration of their pairs", len(smaller))
            pending = [trial for trial in smaller if self.folder.trial(trial.key).outcome() is None]
            if pending:
                self._train(FixedPlan(pending), self.total - len(pending))
            trials = smaller

    def _seconds(self) -> float | None:
        return None if self.study.hours is None else self.study.hours * 3600

    def _told(self, searches: Iterable[OptunaSource]) -> int:
        return sum(source.spent.told for source in searches)

    def _settle(self, searches: Iterable[OptunaSource]) -> dict[str, int]:
        """The truth at the end: deliver what storage holds and the tracker lacks, close what nobody trains any more."""
        planned = [trial for source in searches for trial in source.planned()]
        planned += [*self.study.chosen(self._choices(searches)).trials(), *self.halved]
        states, counts = tracked_states(self.study.name, self.sweep.uri), dict[str, int]()
        folder = self.folder.snapshot()
        for trial in planned:
            stored = folder.trial(trial.key)
            state = self._settle_trial(trial, stored, states.get(trial.key, "not started"))
            counts[state] = counts.get(state, 0) + 1
        self.folder.drop_groups(trial.key for trial in planned if folder.trial(trial.key).outcome() is None)
        return counts

    def _close_runs(self) -> None:
        """Storage can't be asked: what the tracker shows as running, nobody trains. The next run settles the rest."""
        for run in tracked_runs(self.study.name, self.sweep.uri).values():
            if run.data.tags.get("laresa.state") == "running":
                tracking.close(self.api, run.info.run_id)
        self.api.set_terminated(self.sweep.parent_run_id, "FAILED")

    def _settle_trial(self, trial: PlannedTrial, stored: TrialFolder, shown: str) -> str:
        """Bring one trial's run to the state that storage says, and return it."""
        outcome = stored.outcome()
        if outcome is not None:
            stored.tidy()  # who wrote the outcome may have died before it could
        if outcome is not None and (shown != outcome["state"] or not stored.delivered()):
            try:
                deliver(self.api, TrialRun(self.sweep, trial, self.tags), stored)
                shown = str(outcome["state"])
            except DamagedError as error:
                log.warning("%s", error)
                outcome, shown = None, "running"
        if trial.role == "evidence" and shown == "finished":
            tracking.promote(self.api, self.sweep, trial)
        if outcome is None and shown == "running":
            tracking.interrupt(self.api, self.sweep, trial)
            return "interrupted"
        return shown


def resolve_tracking(uri: str | None) -> tuple[str, LocalServer | None]:
    """The tracking address: as given, else MLFLOW_TRACKING_URI, else the local server (started, still to wait for)."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        check(uri)
        return uri, None
    server = LocalServer()
    return server.launch(), server


def describe(study: Study) -> dict[str, str]:
    """Tags of the parent run."""
    tags = {"laresa.arms": json.dumps(study.arms), "laresa.trials": str(study.size)}
    if study.searches:
        tags["laresa.objectives"] = json.dumps(study.searches[0].objectives)
    space = {name: found for search in study.searches for name, found in search.space.items()}
    if space:
        from optuna.distributions import distribution_to_json

        tags["laresa.space"] = json.dumps({name: distribution_to_json(found) for name, found in space.items()})
    return tags

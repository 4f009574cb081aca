"""Schedulers that stop trials early, each search with a state of its own. A comparison's evidence is never stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from laresa.errors import ConfigError, nearest
from laresa.plugins import table
from sweeps.service.driver.source_search import SourceSearch
from sweeps.service.search.groups import why_alone
from sweeps.service.search.optuna_source import check_search
from sweeps.service.study import Search


class InOrder(FIFOScheduler):
    """First come, first served. Tune's own looks through every trial there ever was, at each event."""

    _live: tuple[Trial, ...] = ()
    search: SourceSearch | None = None  # whose trials they are; None: nobody else wants their places

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        self._live = (*self._live, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self._live = tuple(trial for trial in self._live if not trial.is_finished())
        if self.search is not None:
            give_places_back(tune_controller, self.search, self._live)
        ready = [trial for status in (Trial.PENDING, Trial.PAUSED) for trial in self._live if trial.status == status]
        return ready[0] if ready else None


def give_places_back(tune_controller: Any, search: SourceSearch, trials: Iterable[Trial]) -> None:
    """What waits for a place of another sweep's waits no more; idle workers end. trials: the oldest first."""
    waiting = {trial.trial_id: trial for trial in trials if trial.status == Trial.PENDING}
    for name in search.too_many(list(waiting)):
        tune_controller.stop_trial(waiting[name])
    if search.needs_no_worker():
        tune_controller._cleanup_cached_actors(force_all=True)  # Tune keeps one, and with it its place


class Asha(InOrder, ASHAScheduler):
    pass


class MedianStopping(InOrder, MedianStoppingRule):
    pass


# A trial that reaches its last epoch ends by itself, and is measured on test: max_t lies one epoch behind.
COMMON = {"time_attr": "epoch", "metric": "val/top1", "mode": "max"}
SCHEDULERS: dict[str, Callable[[int], TrialScheduler | None]] = {
    "none": lambda epochs: None,
    "asha": lambda epochs: Asha(**COMMON, max_t=epochs + 1, grace_period=max(1, round(epochs / 9)), reduction_factor=3),
    "hyperband": lambda epochs: HyperBandScheduler(**COMMON, max_t=epochs + 1, reduction_factor=3),
    "median": lambda epochs: MedianStopping(**COMMON, grace_period=max(1, round(epochs / 9))),
}


def known_schedulers() -> dict[str, Callable[[int], TrialScheduler | None]]:
    """Ours and those of the plugins, by name; each a function of a trial's full length in epochs."""
    return {**SCHEDULERS, **table("SCHEDULERS")}


class PerSearch(TrialScheduler):
    """A scheduler for each search, by the arm of its trials: they never meet, and no arm stops another's."""

    _metric = "val/top1"
    search: SourceSearch | None = None  # as InOrder's

    def __init__(self, schedulers: dict[str, TrialScheduler]) -> None:
        super().__init__()
        self._by_arm, self._order = schedulers, dict[str, int]()
        self._supports_buffered_results = all(one.supports_buffered_results for one in schedulers.values())

    def of(self, trial: Trial) -> TrialScheduler:
        return self._by_arm[trial.config["trials"][0]["arm"]]

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        taken = [one.set_search_properties(metric, mode, **spec) for one in self._by_arm.values()]
        return all(taken)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._order[trial.trial_id] = len(self._order)
        self.of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self.of(trial).on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Of what each would run next: what has not begun before what was paused, then the oldest."""
        if self.search is not None:
            live = sorted(tune_controller.get_live_trials(), key=lambda trial: self._order[trial.trial_id])
            give_places_back(tune_controller, self.search, live)
        chosen = [one.choose_trial_to_run(tune_controller) for one in self._by_arm.values()]
        ready = [trial for trial in chosen if trial is not None]
        return min(ready, key=lambda t: (t.status != Trial.PENDING, self._order[t.trial_id]), default=None)

    def debug_string(self) -> str:
        return "\n".join(f"{arm}: {one.debug_string()}" for arm, one in self._by_arm.items())


def scheduler_of(searches: Sequence[Search]) -> PerSearch | None:
    """One with a state for each search; None where none of them stops a trial early. Groups stop their own."""
    made = {
        search.name: known_schedulers()[search.scheduler](search.base.epochs) if why_alone(search) else None
        for search in searches
    }
    if all(one is None for one in made.values()):
        return None
    return PerSearch({name: one or InOrder() for name, one in made.items()})


def check_searches(searches: Sequence[Search]) -> None:
    """ConfigError for what no search can be run with: `plan` and `run` refuse it before anything is written."""
    for search in searches:
        check_search(search)
        if search.scheduler not in known_schedulers():
            raise ConfigError(f"unknown scheduler {search.scheduler!r}{nearest(search.scheduler, known_schedulers())}")

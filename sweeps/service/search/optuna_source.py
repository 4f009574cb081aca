"""A search as a source of trials: an Optuna study that is asked and told, and several in turns.

The study's journal lies beside the sweep's storage: durable after every line, no pickle, optuna-dashboard opens it.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from laresa.config import TrialConfig
from laresa.errors import ConfigError, nearest
from laresa.measurement import SCORES, better
from sweeps.service.search import journal
from sweeps.service.search.budget import Searched, Spent, charged, spent
from sweeps.service.search.checked_journal import storage_at
from sweeps.service.search.space import as_params, check_space, suggest
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Group, PlannedTrial, Search

log = logging.getLogger("laresa.source")
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # group, journal, samplers: known


BY_EPOCH = ("val/top1",)  # the objective that every epoch measures, which schedulers can stop a trial by


class Grid(optuna.samplers.BruteForceSampler):
    """Notes when every combination was tried. Optuna's can only end Optuna's own loop, and fails outside of it."""

    exhausted = False

    def after_trial(self, *arguments: Any, **named: Any) -> None:
        try:
            super().after_trial(*arguments, **named)
        except RuntimeError:
            self.exhausted = True


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    # group: a conditional space (a margin only with the triplet) is split into what is always asked together
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed),
    "grid": lambda seed: Grid(seed=seed),
}


class OptunaSource:
    """Asks an Optuna study for configurations and tells it what became of them, across any number of restarts."""

    known = False

    def __init__(
        self,
        search: Search,
        folder: SweepFolder,
        reuse: Callable[[PlannedTrial], PlannedTrial] = lambda trial: trial,
        find: Callable[[PlannedTrial], PlannedTrial] = lambda trial: trial,
    ) -> None:
        """find: the trial under the code that the sweep has it by (`Study.find`). reuse: the same for what is
        suggested; it may put the outcome of an earlier sweep on storage."""
        check_search(search)
        self.search, self._folder, self._reuse, self._find = search, folder, reuse, find
        folder.file(journal.NAME)  # the file is opened where it now is
        self.study = open_study(search, folder.root)
        self._numbers: dict[str, int] = {}  # signature -> trial number of the study
        self._waiting: deque[PlannedTrial] = deque()
        self._take_up()

    # ------------------------------------------------------------------ Source
    @property
    def finished(self) -> bool:
        now = self.spent
        # Of epochs, what runs may leave some: then it was not the last that was asked.
        return not self._waiting and not self._room(now) and not (self.search.by_epochs and now.running)

    def next(self) -> Group | None:
        if self._waiting:
            return Group((self._waiting.popleft(),))
        while self._room(self.spent):
            trial = self.study.ask()
            try:
                planned = self._plan(suggest(trial, self.search.space, self.search.base))
            except ConfigError as error:  # a combination that the checks refuse: the sampler should learn it
                log.warning("suggestion %d can't be used: %s", trial.number, error)
                trial.set_user_attr("refused", str(error))
                trial.set_user_attr("epochs", self.search.base.epochs)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr("signature", planned.signature)
            trial.set_user_attr("config", planned.config.to_dict())
            duplicate = self._numbers.get(planned.signature)
            self._numbers.setdefault(planned.signature, trial.number)
            if duplicate is None:
                planned = self._reuse(planned)
            outcome = self._folder.trial(planned.key).outcome()
            if outcome is not None:
                self._tell(trial.number, outcome)
            elif duplicate is None:
                self._folder.keep(journal.NAME)  # before anybody trains it
                return Group((planned,))
            # else: the same configuration is being trained already; both are told when it ends
        return None

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        for other in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if other.user_attrs.get("signature") == trial.signature:
                self._tell(other.number, outcome)

    def _room(self, now: Spent) -> bool:
        return now.room(self.search) and not getattr(self.study.sampler, "exhausted", False)

    # ------------------------------------------------------------------ the study
    def planned(self) -> list[PlannedTrial]:
        """Every trial the study has asked for so far, each configuration once."""
        configs = {
            t.user_attrs["signature"]: t.user_attrs["config"]
            for t in self.study.get_trials(deepcopy=False)
            if "config" in t.user_attrs
        }
        return [self._trial(TrialConfig.from_dict(fields)) for fields in configs.values()]

    @property
    def spent(self) -> Spent:
        return spent(self.study)

    def _take_up(self) -> None:
        """After a restart: tell what ended meanwhile, go on with what was under way. When new: ask the known first."""
        for trial in self.study.get_trials(deepcopy=False):
            signature = trial.user_attrs.get("signature")
            if trial.state == TrialState.RUNNING and "config" not in trial.user_attrs:
                self.study.tell(trial.number, state=TrialState.FAIL)  # the driver died between asking and noting
                continue
            if trial.state != TrialState.RUNNING:
                continue
            planned = self._trial(TrialConfig.from_dict(trial.user_attrs["config"]))
            outcome = self._folder.trial(planned.key).outcome()
            if outcome is not None:
                self._tell(trial.number, outcome)
            elif signature not in self._numbers:
                self._waiting.append(planned)
            self._numbers.setdefault(signature, trial.number)
        if not self.study.get_trials(deepcopy=False):
            for config in self.search.first:
                self.study.enqueue_trial(as_params(config, self.search.space), skip_if_exists=True)

    def _plan(self, config: TrialConfig) -> PlannedTrial:
        return self._trial(self.search.replicate.of(config))

    def _trial(self, config: TrialConfig) -> PlannedTrial:
        return self._find(PlannedTrial(self.search.name, config, "search"))

    def _tell(self, number: int, outcome: Mapping[str, Any]) -> None:
        objectives = self.search.objectives
        asked = self.study.get_trials(deepcopy=False)[number]
        trial = optuna.trial.Trial(self.study, asked._trial_id)
        trial.set_user_attr("epochs", charged(outcome, TrialConfig.from_dict(asked.user_attrs["config"])))
        for row in outcome["history"] if objectives == BY_EPOCH else ():
            if "val/top1" in row["metrics"]:
                trial.report(row["metrics"]["val/top1"], row["epoch"])
        values = [outcome["metrics"].get(f"best/{name}", math.nan) for name in objectives]
        if outcome["state"] == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        elif outcome["state"] == "finished" and all(map(math.isfinite, values)):
            self.study.tell(number, values)
        else:
            self.study.tell(number, state=TrialState.FAIL)
        self._folder.keep(journal.NAME)


def check_search(search: Search) -> None:
    """ConfigError for a budget, sampler, objective or space that can't be."""
    if search.trials < 1:
        raise ConfigError(f"--trials {search.trials}: expected 1 or more")
    if search.sampler not in SAMPLERS:
        raise ConfigError(f"unknown sampler {search.sampler!r}{nearest(search.sampler, SAMPLERS)}")
    known = [f"val/{name}" for name in ("loss", *SCORES)]
    for name in search.objectives:
        if name not in known:
            only = "; the test split chooses nothing" if name.startswith("test/") else ""
            raise ConfigError(f"unknown objective {name!r}{nearest(name, known)}{only}")
    if len(set(search.objectives)) < max(1, len(search.objectives)):
        raise ConfigError(f"--objective {','.join(search.objectives)}: expected one or more metrics, each once")
    if search.objectives != BY_EPOCH and search.scheduler != "none":
        raise ConfigError(
            f"--scheduler {search.scheduler} stops trials by val/top1 alone: expected none with --objective "
            + ",".join(search.objectives)
        )
    if len(search.objectives) > 1 and search.sampler == "cmaes":
        raise ConfigError("--sampler cmaes takes one objective: expected tpe, nsga2, gp, qmc or random")
    if search.by_epochs and "epochs" in search.space:
        raise ConfigError(
            "--space epochs: the budget is counted in epochs, of trials that are all as long; --set epochs=N"
        )
    check_space(search.space, search.base)


def open_study(search: Search, folder: Path) -> optuna.Study:
    """The study in the folder's journal; StorageError if the file is damaged or of another version."""
    path = folder / journal.NAME
    journal.clear_after_death(path)
    with journal.damage_named(path):
        storage = storage_at(path)
        known = {study.study_name: study for study in optuna.get_all_study_summaries(storage)}
        told = known[search.name].user_attrs if search.name in known else {}
        study = optuna.create_study(
            study_name=search.name,
            storage=storage,
            directions=["minimize" if better(name) == "min" else "maximize" for name in search.objectives],
            # A restart goes on with another stream: the old one would suggest again what it suggested first.
            sampler=SAMPLERS[search.sampler](search.seed + 1000 * told.get("starts", 0)),
            load_if_exists=True,
        )
    study.set_user_attr("starts", told.get("starts", 0) + 1)
    return study


class Interleaved:
    """Several searches as one, a group of each in turn; after `seconds` nothing new is asked."""

    known = False

    def __init__(self, sources: Sequence[OptunaSource], seconds: float | None = None) -> None:
        self._sources, self._searches = list(sources), [source.search for source in sources]
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self.spent = {source.search.name: source.spent for source in sources}  # as of the last that was told

    @property
    def finished(self) -> bool:
        return time.monotonic() > self._end or all(source.finished for source in self._sources)

    def next(self) -> Group | None:
        if time.monotonic() > self._end:
            return None
        for index, source in enumerate(self._sources):
            if (group := source.next()) is not None:
                self.spent[source.search.name] = source.spent
                self._sources = [*self._sources[index + 1 :], *self._sources[: index + 1]]
                return group
        return None

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        for source in self._sources:
            source.concluded(trial, outcome)
            if source.search.name == trial.arm:
                self.spent[trial.arm] = source.spent

    def searched(self, after: int) -> Searched:
        """What all of them have spent. after: epochs of the comparison that follows."""
        now = [(self.spent[search.name], search) for search in self._searches]
        return Searched(
            trials=sum(spent.told for spent, _ in now),
            epochs=sum(spent.epochs for spent, _ in now),
            budget=sum(search.epochs for search in self._searches),
            left=after + sum(spent.left(search) for spent, search in now),
        )

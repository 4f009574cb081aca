"""Where trials come from: a plan fixed in advance, or an Optuna study that is asked and told.

The study's journal lies beside the sweep's storage: durable after every line, no pickle, optuna-dashboard opens it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from laresa.config import TrialConfig
from laresa.errors import ConfigError, nearest
from laresa.measurement import SCORES, better
from sweeps.service.search import journal
from sweeps.service.search.space import as_params, check_space, suggest
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial, Search

log = logging.getLogger("laresa.source")
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # group, journal, samplers: known


class Source(Protocol):
    """Gives trials to train and hears how they ended."""

    @property
    def finished(self) -> bool:
        """Nothing will come any more."""

    def next(self) -> PlannedTrial | None:
        """A trial to train now; None if there is none (or none yet: see `finished`)."""

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        """The trial ended as its outcome.json says."""


class FixedPlan:
    """Every trial is known in advance."""

    def __init__(self, trials: Iterable[PlannedTrial]) -> None:
        self._left = deque(trials)

    @property
    def finished(self) -> bool:
        return not self._left

    def next(self) -> PlannedTrial | None:
        return self._left.popleft() if self._left else None

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        return None


BY_EPOCH = ("val/top1",)  # the objective that every epoch measures, which schedulers can stop a trial by


class Requeued(FixedPlan):
    """Trials of another source once more, which hears how they end."""

    def __init__(self, trials: Iterable[PlannedTrial], source: Source) -> None:
        super().__init__(trials)
        self._source = source

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        self._source.concluded(trial, outcome)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    # group: a conditional space (a margin only with the triplet) is split into what is always asked together
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed),
    "grid": lambda seed: optuna.samplers.BruteForceSampler(seed=seed),
}


class OptunaSource:
    """Asks an Optuna study for configurations and tells it what became of them, across any number of restarts."""

    def __init__(
        self, search: Search, folder: SweepFolder, reuse: Callable[[PlannedTrial], object] = lambda trial: None
    ) -> None:
        """reuse: called with what is suggested; it may put the outcome of an earlier sweep on storage."""
        check_search(search)
        self.search, self._folder, self._reuse = search, folder, reuse
        folder.file(journal.NAME)  # the file is opened where it now is
        self.study = open_study(search, folder.root)
        self._numbers: dict[str, int] = {}  # signature -> trial number of the study
        self._waiting: deque[PlannedTrial] = deque()
        self._take_up()

    # ------------------------------------------------------------------ Source
    @property
    def finished(self) -> bool:
        return not self._waiting and self._asked() >= self.search.trials

    def next(self) -> PlannedTrial | None:
        if self._waiting:
            return self._waiting.popleft()
        while self._asked() < self.search.trials:
            trial = self.study.ask()
            try:
                planned = self._plan(suggest(trial, self.search.space, self.search.base))
            except ConfigError as error:  # a combination that the checks refuse: the sampler should learn it
                log.warning("suggestion %d can't be used: %s", trial.number, error)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr("signature", planned.signature)
            trial.set_user_attr("config", planned.config.to_dict())
            duplicate = self._numbers.get(planned.signature)
            self._numbers.setdefault(planned.signature, trial.number)
            if duplicate is None:
                self._reuse(planned)
            outcome = self._folder.trial(planned.signature).outcome()
            if outcome is not None:
                self._tell(trial.number, outcome)
            elif duplicate is None:
                self._folder.keep(journal.NAME)  # before anybody trains it
                return planned
            # else: the same configuration is being trained already; both are told when it ends
        return None

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        for other in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if other.user_attrs.get("signature") == trial.signature:
                self._tell(other.number, outcome)

    # ------------------------------------------------------------------ the study
    def planned(self) -> list[PlannedTrial]:
        """Every trial the study has asked for so far, each configuration once."""
        configs = {
            t.user_attrs["signature"]: t.user_attrs["config"]
            for t in self.study.get_trials(deepcopy=False)
            if "config" in t.user_attrs
        }
        return [PlannedTrial(self.search.name, TrialConfig.from_dict(fields), "search") for fields in configs.values()]

    @property
    def told(self) -> int:
        """Trials that have ended."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return sum("config" in t.user_attrs for t in self.study.get_trials(deepcopy=False, states=states))

    def _asked(self) -> int:
        """Suggestions that count against the budget: all but those that never became a configuration."""
        states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return sum("config" in t.user_attrs for t in self.study.get_trials(deepcopy=False, states=states))

    def _take_up(self) -> None:
        """After a restart: tell what ended meanwhile, go on with what was under way. When new: ask the known first."""
        for trial in self.study.get_trials(deepcopy=False):
            signature = trial.user_attrs.get("signature")
            if trial.state == TrialState.RUNNING and signature is None:
                self.study.tell(trial.number, state=TrialState.FAIL)  # the driver died between asking and noting
                continue
            if trial.state != TrialState.RUNNING:
                continue
            outcome = self._folder.trial(signature).outcome()
            if outcome is not None:
                self._tell(trial.number, outcome)
            elif signature not in self._numbers:
                config = TrialConfig.from_dict(trial.user_attrs["config"])
                self._waiting.append(PlannedTrial(self.search.name, config, "search"))
            self._numbers.setdefault(signature, trial.number)
        if not self.study.get_trials(deepcopy=False):
            for config in self.search.first:
                self.study.enqueue_trial(as_params(config, self.search.space), skip_if_exists=True)

    def _plan(self, config: TrialConfig) -> PlannedTrial:
        replicate = self.search.replicate
        return PlannedTrial(self.search.name, config.replace(seed=replicate.seed, fold=replicate.fold), "search")

    def _tell(self, number: int, outcome: Mapping[str, Any]) -> None:
        objectives = self.search.objectives
        trial = optuna.trial.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)
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
    """ConfigError for a budget, sampler, scheduler, objective or space that can't be."""
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
    check_space(search.space, search.base)


def open_study(search: Search, folder: Path) -> optuna.Study:
    """The study in the folder's journal; StorageError if the file is damaged or of another version."""
    path = folder / journal.NAME
    journal.clear_after_death(path)
    with journal.damage_named(path):
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
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


def best_config(source: OptunaSource) -> TrialConfig:
    """The configuration a search ended with. ConfigError if none finished."""
    try:
        return TrialConfig.from_dict(source.study.best_trial.user_attrs["config"])
    except ValueError:
        raise ConfigError(f"search {source.search.name!r} has no finished trial: look at `laresa status`") from None


def best_config_or_none(source: OptunaSource) -> TrialConfig | None:
    """As best_config, or None; None, too, for several objectives, which have no single best."""
    if len(source.search.objectives) > 1:
        return None
    with contextlib.suppress(ConfigError):
        return best_config(source)
    return None


class Interleaved:
    """Several searches as one, a trial of each in turn; after `seconds` nothing new is asked."""

    def __init__(self, sources: Sequence[OptunaSource], seconds: float | None = None) -> None:
        self._sources = list(sources)
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def finished(self) -> bool:
        return time.monotonic() > self._end or all(source.finished for source in self._sources)

    def next(self) -> PlannedTrial | None:
        if time.monotonic() > self._end:
            return None
        for index, source in enumerate(self._sources):
            if (trial := source.next()) is not None:
                self._sources = [*self._sources[index + 1 :], *self._sources[: index + 1]]
                return trial
        return None

    def concluded(self, trial: PlannedTrial, outcome: Mapping[str, Any]) -> None:
        for source in self._sources:
            source.concluded(trial, outcome)

"""Study: what to try. Cells (arms) times replicates, each trial a TrialConfig with its signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from sweeps.service.provenance import code_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution  # not needed by a query, which should start quickly

Space = Mapping[str, "BaseDistribution"]


@dataclass(frozen=True)
class RunOptions:
    """Where and how a sweep runs; nothing here changes what is learned.

    storage: a folder, or the URI of a bucket. gpu_memory_per_trial: GiB, instead of gpus_per_trial. halve_batch: a
    trial that runs out of a whole GPU's memory is followed by one with half the batch, which is another configuration
    under the same arm. accept_code: results that other code learned are kept and marked; retrain: they are trained
    anew.
    """

    tracking_uri: str | None = None
    storage: Path | str | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    concurrency: int | None = None
    gpu_memory_per_trial: float | None = None
    halve_batch: bool = False
    accept_code: bool = False
    retrain: bool = False


@dataclass(frozen=True)
class Replicate:
    """One repetition of every arm: the same seed and fold across arms, so that differences are paired."""

    seed: int
    fold: int


@dataclass(frozen=True)
class Cell:
    """One arm of the comparison: a label for tables and the configuration that replicates vary."""

    arm: str
    config: TrialConfig


@dataclass(frozen=True)
class PlannedTrial:
    """role: "evidence" (stands in the comparison) or "search" (helped to choose a configuration).

    code: digest of the code it is found under, together with its signature; "": of the code that is here.
    """

    arm: str
    config: TrialConfig
    role: str = "evidence"
    code: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.code or code_of(self.config).digest)

    @property
    def signature(self) -> str:
        return self.config.signature()

    @property
    def key(self) -> str:
        """What its files and its run are found by, within a sweep."""
        return trial_key(self.signature, self.code)

    @property
    def accepted_by(self) -> str:
        """Digest of the code that is here, where the trial is kept though another learned it; else ""."""
        here = code_of(self.config).digest
        return "" if here == self.code else here


def trial_key(signature: str, code: str) -> str:
    return f"{signature}-{code}"


@dataclass(frozen=True)
class Search:
    """What an Optuna study looks for: `trials` suggestions from `space` around `base`, judged on one replicate.

    name: of the study in the journal, and the arm of its trials. objectives: validation metrics, for the test split
    chooses nothing; several are answered by a Pareto front. first: configurations asked before any suggestion.
    """

    name: str
    base: TrialConfig
    space: Space
    trials: int
    replicate: Replicate
    sampler: str = "tpe"
    scheduler: str = "none"
    seed: int = 0
    objectives: tuple[str, ...] = ("val/top1",)
    first: tuple[TrialConfig, ...] = ()


@dataclass(frozen=True)
class Study:
    """Searches, then a fixed plan: every cell on every replicate.

    A cell whose arm has a search of that name is run with the configuration its search chose.
    kept: signature -> (code, accepted by) of what this sweep has by other code, and the user accepted; it grows with
    what is accepted while the sweep runs.
    """

    name: str
    cells: tuple[Cell, ...]
    replicates: tuple[Replicate, ...]
    searches: tuple[Search, ...] = ()
    hours: float | None = None  # of searching: after them nothing new is asked
    kept: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _unique("arm", [cell.arm for cell in self.cells])
        _unique("replicate (seed, fold)", [(r.seed, r.fold) for r in self.replicates])
        if not (self.cells and self.replicates) and not self.searches:
            raise ConfigError(f"sweep {self.name!r} has no trial: give at least one arm and one seed")
        if self.hours is not None and self.hours <= 0:
            raise ConfigError(f"--hours {self.hours:g}: expected more than 0")
        by_signature: dict[str, str] = {}
        for trial in self.trials():
            other = by_signature.setdefault(trial.signature, trial.arm)
            if other != trial.arm:
                raise ConfigError(f"arms {other!r} and {trial.arm!r} are the same configuration: drop one")

    @property
    def size(self) -> int:
        """How many trials it has in all."""
        return sum(search.trials for search in self.searches) + len(self.cells) * len(self.replicates)

    def chosen(self, configs: Mapping[str, TrialConfig]) -> Study:
        """The study with the configurations that its searches chose, by arm."""
        cells = tuple(Cell(cell.arm, configs.get(cell.arm, cell.config)) for cell in self.cells)
        return replace(self, cells=cells)

    def trials(self) -> tuple[PlannedTrial, ...]:
        """Replicate by replicate, so that an early stop leaves whole pairs."""
        return tuple(
            self.find(PlannedTrial(cell.arm, cell.config.replace(seed=replicate.seed, fold=replicate.fold)))
            for replicate in self.replicates
            for cell in self.cells
        )

    def find(self, trial: PlannedTrial) -> PlannedTrial:
        """The trial of the code that is here, under the code that this sweep keeps it by."""
        code, accepted_by = self.kept.get(trial.signature, ("", "")) if self.kept else ("", "")
        return replace(trial, code=code) if code and accepted_by == trial.code else trial


def _unique(what: str, values: Sequence[object]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ConfigError(f"{what} given more than once: {', '.join(repeated)}")

"""Study: what to try. Cells (arms) times replicates, each trial a TrialConfig with its signature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laresa.config import TrialConfig
from laresa.errors import ConfigError, nearest
from sweeps.service.key import trial_key
from sweeps.service.provenance import code_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution  # not needed by a query, which should start quickly

LONGEST_NAME = 200  # bytes of a sweep's name, which folders and MLflow take
LEAST_SHARE = 1e-4  # of a GPU: Ray counts no finer
KEEP_WEIGHTS = ("best", "all", "none")  # of the best epoch; also of the last; no weights
Space = Mapping[str, "BaseDistribution"]
# Where a search's choice is from: a trial that finished; where none did, the best of what was stopped early; where
# nothing was measured, the settings that it began with.
CHOSEN = ("finished", "pruned", "given")


@dataclass(frozen=True)
class RunOptions:
    """Where and how a sweep runs; nothing here changes what is learned.

    storage: a folder, or the URI of a bucket. gpus_per_trial: None is decided once the cluster is known
    (planning.gpus.decided); 0 is the CPU. gpu_memory_per_trial: GiB, from which the share of a GPU follows.
    halve_batch: a trial that runs out of a whole GPU's memory is followed by one with half the batch, which is another
    configuration under the same arm. accept_code: results that other code learned are kept and marked; retrain: they
    are trained anew. priority: of this sweep among those that share a cluster. max_gpu_hours, max_trials: of the sweep
    over all its runs; it ends there, resumably. latents_every: epochs between two at which a trial's validation latents
    are kept as an artifact. keep_weights: of KEEP_WEIGHTS. ConfigError for a number that can't be.
    """

    tracking_uri: str | None = None
    storage: Path | str | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    concurrency: int | None = None
    gpu_memory_per_trial: float | None = None
    halve_batch: bool = False
    accept_code: bool = False
    retrain: bool = False
    priority: float = 1.0
    max_gpu_hours: float | None = None
    max_trials: int | None = None
    latents_every: int | None = None
    keep_weights: str = "best"

    def __post_init__(self) -> None:
        cpus, gpus, memory = self.cpus_per_trial, self.gpus_per_trial, self.gpu_memory_per_trial
        if not 0 < cpus < math.inf:  # nan is no number between two others
            raise ConfigError(f"--cpus-per-trial {cpus:g}: expected a number greater than 0")
        if gpus is not None and gpus != 0 and not LEAST_SHARE <= gpus <= 1:
            raise ConfigError(
                f"--gpus-per-trial {gpus:g}: expected auto, 0 for the CPU, or {LEAST_SHARE:g} to 1 "
                "(a trial uses one device or a share of it)"
            )
        if memory is not None and not 0 < memory < math.inf:
            raise ConfigError(f"--gpu-memory-per-trial {memory:g}: expected GiB, a number greater than 0")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"--concurrency {self.concurrency}: expected 1 or more")
        if not 0 < self.priority < math.inf:
            raise ConfigError(f"--priority {self.priority:g}: expected a number greater than 0")
        if self.max_gpu_hours is not None and not 0 < self.max_gpu_hours < math.inf:
            raise ConfigError(f"--max-gpu-hours {self.max_gpu_hours:g}: expected a number greater than 0")
        if self.max_trials is not None and self.max_trials < 1:
            raise ConfigError(f"--max-trials {self.max_trials}: expected 1 or more")
        if self.latents_every is not None and self.latents_every < 1:
            raise ConfigError(f"--latents-every {self.latents_every}: expected epochs, 1 or more")

    @property
    def gpus(self) -> float:
        """What a trial asks Ray for. ValueError while it is not decided yet."""
        if self.gpus_per_trial is None:
            raise ValueError("gpus_per_trial is still auto: planning.gpus.decided tells what it becomes")
        return self.gpus_per_trial


@dataclass(frozen=True)
class Replicate:
    """One repetition of every arm: the same seed and fold across arms, so that differences are paired."""

    seed: int
    fold: int
    exchanged: bool = False  # the fold's validation and test part change places: what a search is judged on

    def of(self, config: TrialConfig) -> TrialConfig:
        """The configuration on this replicate."""
        return config.replace(seed=self.seed, fold=self.fold, exchange_splits=self.exchanged)


@dataclass(frozen=True)
class Cell:
    """One arm of the comparison: a label for tables and the configuration that replicates vary.

    chosen: of CHOSEN, where a search chose the configuration. block: where a study compares its arms on several data
    sets or backbones, in words; within a block each arm stands once.
    """

    arm: str
    config: TrialConfig
    chosen: str | None = None
    block: str = ""

    @property
    def name(self) -> str:
        """What a study tells its cells apart by."""
        return f"{self.arm} ({self.block})" if self.block else self.arm


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to train.

    role: "evidence" (stands in the comparison) or "search" (helped to choose a configuration). chosen: as in Cell.
    code: digest of the code it is found under, together with its signature; "": of the code that is here.
    """

    arm: str
    config: TrialConfig
    role: str = "evidence"
    chosen: str | None = None
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the signature beside them, for those who only tell trials apart."""
        fields = {"arm": self.arm, "role": self.role, "chosen": self.chosen, "signature": self.signature}
        return {**fields, "code": self.code, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PlannedTrial:
        config = TrialConfig.from_dict(fields["config"])
        return cls(fields["arm"], config, fields["role"], fields["chosen"], fields["code"])


@dataclass(frozen=True)
class Group:
    """Trials that one worker trains together, as one trial of Tune's.

    halving: the worker stops the lesser of each arm early. Without it, trials of several searches are never stopped.
    """

    trials: tuple[PlannedTrial, ...]
    halving: bool = False


@dataclass(frozen=True)
class Choice:
    """What a search ended with. how: the state of the trial it is from, of CHOSEN."""

    config: TrialConfig
    how: str


@dataclass(frozen=True)
class Search:
    """What an Optuna study looks for: suggestions from `space` around `base`, judged on one replicate.

    name: of the study in the journal, and the arm of its trials. trials: of full length, in all. by_epochs: not they
    are counted but their epochs, spent on as many trials as fit. objectives: validation metrics, for the test split
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
    by_epochs: bool = False

    @property
    def epochs(self) -> int:
        """The most that it trains."""
        return self.trials * self.base.epochs


@dataclass(frozen=True)
class Study:
    """Searches, then a fixed plan: every cell on every replicate.

    A cell whose arm has a search of that name is run with the configuration its search chose.
    contrasts: (arm, against), the primary ones, which are named before anything is trained. sequential: replicates are
    added until they are decided. margin: points of test top-1 within which arms count as equivalent. early: arms that
    are trained before the others in every block, so that a table can be read early.
    kept: signature -> (code, accepted by) of what this sweep has by other code, and the user accepted; it grows with
    what is accepted while the sweep runs.
    """

    name: str
    cells: tuple[Cell, ...]
    replicates: tuple[Replicate, ...]
    searches: tuple[Search, ...] = ()
    hours: float | None = None  # of searching: after them nothing new is asked
    contrasts: tuple[tuple[str, str], ...] = ()
    sequential: bool = False
    margin: float = 1.0
    early: tuple[str, ...] = ()
    kept: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.isprintable() or len(self.name.encode(errors="replace")) > LONGEST_NAME:
            raise ConfigError(
                f"sweep name {self.name[:100]!r}: expected at most {LONGEST_NAME} bytes, and no control characters"
            )
        _unique("arm", [cell.name for cell in self.cells])
        _unique("replicate (seed, fold)", [(r.seed, r.fold) for r in self.replicates])
        if not (self.cells and self.replicates) and not self.searches:
            raise ConfigError(f"sweep {self.name!r} has no trial: give at least one arm and one seed")
        for pair in self.contrasts:
            self._check_contrast(*pair)
        if not 0 < self.margin < math.inf:
            raise ConfigError(f"--margin {self.margin:g}: expected points of top-1, more than 0")
        if self.hours is not None and not self.hours > 0:  # nan is not, either
            raise ConfigError(f"--hours {self.hours:g}: expected more than 0")
        by_signature: dict[str, str] = {}
        for trial in self.trials():
            other = by_signature.setdefault(trial.signature, trial.arm)
            if other != trial.arm:
                raise ConfigError(f"arms {other!r} and {trial.arm!r} are the same configuration: drop one")

    def _check_contrast(self, arm: str, against: str) -> None:
        arms = self.arms
        for name in (arm, against):
            if name not in arms:
                known = "; ".join(arms)
                raise ConfigError(f"--primary {arm}:{against}: no arm {name!r}{nearest(name, arms)}; arms: {known}")
        if arm == against:
            raise ConfigError(f"--primary {arm}:{against}: expected two different arms")

    @property
    def size(self) -> int:
        """How many trials it has in all; at least, where a search counts epochs."""
        return sum(search.trials for search in self.searches) + len(self.cells) * len(self.replicates)

    def chosen(self, choices: Mapping[str, Choice]) -> Study:
        """The study with the configurations that its searches chose, by arm."""
        made = {arm: Cell(arm, choice.config, choice.how) for arm, choice in choices.items()}
        return replace(self, cells=tuple(made.get(cell.name, cell) for cell in self.cells))

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.arm for cell in self.cells))

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.block for cell in self.cells))

    def trials(self) -> tuple[PlannedTrial, ...]:
        """Replicate by replicate, so that an early stop leaves whole pairs."""
        return tuple(
            self.find(PlannedTrial(cell.arm, replicate.of(cell.config), chosen=cell.chosen))
            for replicate in self.replicates
            for cell in sorted(self.cells, key=lambda cell: cell.arm not in self.early)
        )

    def find(self, trial: PlannedTrial) -> PlannedTrial:
        """The trial of the code that is here, under the code that this sweep keeps it by."""
        code, accepted_by = self.kept.get(trial.signature, ("", "")) if self.kept else ("", "")
        return replace(trial, code=code) if code and accepted_by == trial.code else trial


def _unique(what: str, values: Sequence[object]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ConfigError(f"{what} given more than once: {', '.join(repeated)}")

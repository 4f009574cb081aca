"""Study: what to try. Cells (arms) times replicates, each trial a TrialConfig with its signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laresa.config import TrialConfig
from laresa.errors import ConfigError


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
    arm: str
    config: TrialConfig

    @property
    def signature(self) -> str:
        return self.config.signature()


@dataclass(frozen=True)
class Study:
    """A fixed plan: every cell on every replicate."""

    name: str
    cells: tuple[Cell, ...]
    replicates: tuple[Replicate, ...]

    def __post_init__(self) -> None:
        _unique("arm", [cell.arm for cell in self.cells])
        _unique("replicate (seed, fold)", [(r.seed, r.fold) for r in self.replicates])
        if not self.cells or not self.replicates:
            raise ConfigError(f"sweep {self.name!r} has no trial: give at least one arm and one seed")
        by_signature: dict[str, str] = {}
        for trial in self.trials():
            other = by_signature.setdefault(trial.signature, trial.arm)
            if other != trial.arm:
                raise ConfigError(f"arms {other!r} and {trial.arm!r} are the same configuration: drop one")

    def trials(self) -> tuple[PlannedTrial, ...]:
        """Replicate by replicate, so that an early stop leaves whole pairs."""
        return tuple(
            PlannedTrial(cell.arm, cell.config.replace(seed=replicate.seed, fold=replicate.fold))
            for replicate in self.replicates
            for cell in self.cells
        )


def _unique(what: str, values: Sequence[object]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ConfigError(f"{what} given more than once: {', '.join(repeated)}")

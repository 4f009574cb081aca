"""Which trials count: the named selection rule, and records sorted into blocks of arms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from laresa.errors import DataError
from laresa.measurement import RANK_COLLAPSE
from sweeps.service.tracking.records import TrialRecord

USUAL = "ce"  # the baseline where the study's own order of arms is not known
TEST = "test/top1"
RANK = "test/effective_rank"
COLLAPSE_WEIGHT = 0.05  # under it a trial has collapsed; as in laresa.weighting, whose import needs torch

Replicate = tuple[int, int]  # (seed, fold) within one data set and backbone: the unit that is paired


@dataclass(frozen=True)
class SelectionRule:
    """How one number comes out of a trial, and one trial out of several of the same replicate."""

    name: str
    metric: str
    text: str

    def choose(self, trials: Sequence[TrialRecord]) -> TrialRecord:
        """The trial with the highest `metric`; of equals the one with the smallest signature."""
        return min(trials, key=lambda trial: (-value(trial, self.metric, missing=-math.inf), trial.signature))


BEST_VALIDATION = SelectionRule(
    name="best validation epoch",
    metric="best/val/top1",
    text="each trial is measured on test once, at the epoch with the best validation top-1; "
    "of several trials of one replicate and arm, the one with the best validation top-1 counts",
)


def value(trial: TrialRecord, metric: str, *, missing: float = math.nan) -> float:
    """A finite metric of the trial, else `missing`."""
    found = trial.metrics.get(metric, math.nan)
    return float(found) if math.isfinite(found) else missing


def replicate(trial: TrialRecord) -> Replicate:
    return trial.config.seed, trial.config.fold


def usable(trial: TrialRecord) -> bool:
    """Finished, with a test result. Every other trial is counted and shown, but has no number to give."""
    return trial.state == "finished" and not math.isnan(value(trial, TEST))


def collapse_step(trial: TrialRecord) -> int | None:
    """The first step at which the weight of the base term was under COLLAPSE_WEIGHT; None if it never was."""
    step = value(trial, "collapse_step", missing=-1.0)
    return int(step) if step >= 0 else None


def rank_collapsed(trial: TrialRecord) -> bool:
    """Whether the test latents lie on too few directions for so many classes."""
    return value(trial, "test/rank_share") < RANK_COLLAPSE


@dataclass(frozen=True)
class Arm:
    """One row of a table: all its trials, and of each replicate the one that counts."""

    label: str
    trials: tuple[TrialRecord, ...]
    chosen: Mapping[Replicate, TrialRecord]

    @property
    def n_ok(self) -> int:
        return sum(usable(trial) for trial in self.trials)

    @property
    def n_total(self) -> int:
        return len(self.trials)

    @property
    def collapsed(self) -> int:
        return sum(collapse_step(trial) is not None for trial in self.trials)

    @property
    def rank_collapsed(self) -> int:
        return sum(map(rank_collapsed, self.trials))

    @property
    def choices(self) -> frozenset[str]:
        """Where a search chose the arm's configuration: the states it was chosen from, else none."""
        return frozenset(how for trial in self.trials if (how := trial.provenance.get("chosen")))

    @property
    def subset(self) -> str:
        return self.trials[0].config.subset

    def values(self, metric: str) -> dict[Replicate, float]:
        """The finite values of a metric by replicate."""
        found = {key: value(trial, metric) for key, trial in self.chosen.items()}
        return {key: number for key, number in found.items() if not math.isnan(number)}


@dataclass(frozen=True)
class Block:
    """The arms that may be compared: one data set, one backbone.

    baseline: label of the arm that the others are held against, the same in all blocks, and perhaps none of this one's.
    """

    dataset: str
    backbone: str
    arms: tuple[Arm, ...]
    baseline: str | None = None

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.backbone}"

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        return tuple(trial for arm in self.arms for trial in arm.trials)

    def arm(self, label: str | None) -> Arm | None:
        return next((arm for arm in self.arms if arm.label == label), None)


def to_blocks(
    records: Iterable[TrialRecord], rule: SelectionRule = BEST_VALIDATION, order: Sequence[str] = ()
) -> tuple[Block, ...]:
    """Records by data set and backbone, arms in the study's order, then as they come.

    order: the study's arms; where it is not known, the baseline comes first.
    Raises DataError where there is no record at all.
    """
    groups: dict[tuple[str, str], dict[str, list[TrialRecord]]] = {}
    alone: set[str] = set()
    for record in records:
        arms = groups.setdefault((_data(record), record.config.backbone), {})
        arms.setdefault(record.arm, []).append(record)
        alone |= set() if "+" in record.config.subset else {record.arm}
    if not groups:
        raise DataError("no trial records: nothing to report. Has the sweep started, and is its name spelt right?")
    baseline = _baseline(alone, order)
    known = order or (baseline,)
    return tuple(
        Block(
            dataset,
            backbone,
            # Stable: what the study does not name stays in the order in which it came.
            tuple(
                _to_arm(label, arms[label], rule)
                for label in sorted(arms, key=lambda label: known.index(label) if label in known else len(known))
            ),
            baseline,
        )
        for (dataset, backbone), arms in groups.items()
    )


def _data(record: TrialRecord) -> str:
    """The data set, and how much of it was trained on where that is not all: another task."""
    fields = record.config.resolved
    if (shots := fields.get("shots")) is not None:
        return f"{record.config.dataset} ({shots} a class)"
    if (fraction := fields.get("train_fraction", 1.0)) < 1:
        return f"{record.config.dataset} ({100 * fraction:g} %)"
    return str(record.config.dataset)


def _baseline(alone: Iterable[str], order: Sequence[str]) -> str | None:
    """The study's first arm that is a base term alone; without its order the usual one, else the first by name.

    alone: labels of all arms whose subset is one term.
    """
    ranked = sorted(alone, key=lambda label: (label != USUAL, label))
    return next((label for label in order if label in ranked), ranked[0] if ranked else None)


def _to_arm(label: str, trials: Sequence[TrialRecord], rule: SelectionRule) -> Arm:
    candidates: dict[Replicate, list[TrialRecord]] = {}
    for trial in filter(usable, trials):
        candidates.setdefault(replicate(trial), []).append(trial)
    return Arm(label, tuple(trials), {key: rule.choose(candidates[key]) for key in sorted(candidates)})


@dataclass(frozen=True)
class Budget:
    """What the records cost: trials started, epochs trained, seconds of training summed over trials."""

    trials: int
    epochs: int
    seconds: float

    @property
    def text(self) -> str:
        return f"{self.trials:,} trials, {self.epochs:,} epochs, {self.seconds:,.0f} s of training in total"


def budget(records: Iterable[TrialRecord]) -> Budget:
    """Counts every trial, also those that failed. Seconds: `seconds/train`, else the sum over the epochs."""
    trials = list(records)
    seconds = (value(t, "seconds/train", missing=sum(m.seconds for m in t.history)) for t in trials)
    return Budget(len(trials), sum(len(trial.history) for trial in trials), sum(seconds))

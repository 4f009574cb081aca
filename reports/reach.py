"""Epochs and seconds until ce's own peak of validation accuracy: what a faster method would have to need less of.

Epochs to an arm's own peak (the paper's table 8) tell nothing of that: an arm that peaks early may peak low. Energy is
there where trials had a GPU to themselves whose driver counts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.formats import MISSING, Cell, Column, Table
from reports.published import BASELINE
from reports.select import Arm, Block
from reports.tables import ARM, Context, Row, block_rows, label_cell
from sweeps.service.tracking.records import TrialRecord

VAL, JOULES = "val/top1", "energy/joules"
CENSORED = (
    "A run that ended under the target, stopped early or at its last epoch, never reached it: it counts as later than "
    "all that did, so the median stands as long as most runs reach; k of n did not."
)
ONE_PAIR = "One run of each arm: no difference here can be told from the noise of the seed."


ENERGY = (Column("kJ", ("kilojoules_median",)), Column("of ce's energy [%]", ("energy_share",)))


@dataclass(frozen=True)
class Reached:
    """One replicate: when the arm was first as good as ce ever was; inf: never. ce's own numbers beside it.

    joules: nan where an epoch before that has none.
    """

    epochs: float
    seconds: float
    joules: float
    ce_epochs: float
    ce_seconds: float
    ce_joules: float

    @property
    def never(self) -> bool:
        return math.isinf(self.epochs)


def reach_table(context: Context) -> Table | None:
    """By arm, over the replicates that ce has too; None where no trial has a history."""
    counted = any(JOULES in m.metrics for block in context.blocks for trial in block.trials for m in trial.history)
    rows = [block_rows(block, _rows(block, counted)) for block in context.blocks]
    blocks = tuple(block for block in rows if block.rows)
    columns = (
        ARM,
        Column("epochs", ("epochs_median",)),
        Column("of ce's epochs [%]", ("epochs_share",)),
        Column("seconds", ("seconds_median",)),
        Column("of ce's seconds [%]", ("seconds_share",)),
        *ENERGY[: 2 * counted],
        Column("never reached", ("n_never", "n_pairs")),
    )
    notes = (
        "Target: the best validation top-1 of the ce run of the same seed and fold. Counted: epochs, and seconds of "
        "training and validation, until the arm is first at the target or over it. Medians over the pairs; of ce's: "
        "the median of the ratios.",
        CENSORED,
        "The target is the luckiest epoch of a whole run, which ce reaches by construction: a twin of ce with another "
        "seed would fail in about half of the runs. Seconds depend on the machine and on what else ran there.",
    )
    title = f"Epochs{', seconds and energy' if counted else ' and seconds'} to ce's peak validation accuracy"
    most = max((int(row[-1].values[1] or 0) for block in blocks for row in block.rows), default=0)
    verdict = ONE_PAIR if most == 1 else ""
    return Table("paper-reach", title, columns, blocks, context.notes(*notes), verdict=verdict) if blocks else None


def _rows(block: Block, counted: bool) -> list[Row]:
    ce = block.arm(BASELINE)
    found = [(arm, reached(arm, ce)) for arm in block.arms] if ce else []
    return [_row(arm, pairs, counted) for arm, pairs in found if pairs]


def reached(arm: Arm, ce: Arm) -> list[Reached]:
    """By replicate, of those that both have with a history."""
    pairs = [(arm.chosen[key], ce.chosen[key]) for key in arm.chosen if key in ce.chosen]
    found = []
    for trial, other in pairs:
        target = max((v for m in other.history if math.isfinite(v := m.metrics.get(VAL, math.nan))), default=math.nan)
        if trial.history and not math.isnan(target):
            found.append(Reached(*first_at(trial, target), *first_at(other, target)))
    return found


def first_at(trial: TrialRecord, target: float) -> tuple[float, float, float]:
    """(epochs, seconds, joules) until validation top-1 is first at the target or over it; inf each: never."""
    seconds = joules = 0.0
    for measurement in trial.history:
        seconds += measurement.seconds
        joules += measurement.metrics.get(JOULES, math.nan)
        if measurement.metrics.get(VAL, math.nan) >= target:
            return float(measurement.epoch), seconds, joules
    return math.inf, math.inf, math.inf


def _row(arm: Arm, pairs: Sequence[Reached], counted: bool) -> Row:
    never = sum(pair.never for pair in pairs)
    numbers = [
        ([pair.epochs for pair in pairs], 1.0),
        ([pair.epochs / pair.ce_epochs for pair in pairs], 100.0),
        ([pair.seconds for pair in pairs], 1.0),
        ([pair.seconds / pair.ce_seconds if pair.ce_seconds else math.nan for pair in pairs], 100.0),
    ]
    if counted:
        numbers.append(([pair.joules for pair in pairs], 1e-3))
        numbers.append(([pair.joules / pair.ce_joules if pair.ce_joules else math.nan for pair in pairs], 100.0))
    count = Cell(f"{never} of {len(pairs)}", (never, len(pairs)))
    epochs, *others = (_median_cell(values, scale) for values, scale in numbers)
    words = Cell(f"never in {count.text}", epochs.values) if 2 * never >= len(pairs) else epochs
    return (label_cell(arm), words, *others, count)


def _median_cell(values: Sequence[float], scale: float) -> Cell:
    """Without a number where half of them or more are inf."""
    median = scale * float(np.median(values))
    return Cell(f"{median:.0f}" if math.isfinite(median) else MISSING, (median,))

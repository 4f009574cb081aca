"""What noise in the labels' texts costs: slopes of accuracy and of the terms' weights over its share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from reports.formats import MISSING, Cell, Column, Table, signed
from reports.select import TEST, Arm, Replicate
from reports.statistics import mean_sd, t_interval
from reports.tables import Context, Row, block_rows
from reports.trade_off import Curve, varied
from sweeps.service.tracking.records import TrialRecord

SHARES = ("label_noise", "coarse_noise")
WEIGHTS = ("anchor", "triplet")  # the terms that read the texts
LAST = 5  # epochs, over which a weight is averaged


@dataclass(frozen=True)
class Slope:
    """A quantity over the share of noise, by least squares in each replicate that has all shares.

    first, last: (share, mean) at both ends. by_replicate: what the quantity gains as the share goes from 0 to 1.
    """

    first: tuple[float, float]
    last: tuple[float, float]
    by_replicate: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """Student's t, 95 %, of the mean over replicates."""
        return t_interval(np.array(self.by_replicate))

    @property
    def verdict(self) -> str:
        low, high = self.interval
        return MISSING if math.isnan(low) else "falls" if high < 0 else "rises" if low > 0 else "not told from 0"


def slope(by_share: Mapping[float, Mapping[Replicate, float]]) -> Slope | None:
    """None: fewer than two shares, or no replicate that has all."""
    shares = sorted(by_share)
    common = sorted(set.intersection(*(set(by_share[share]) for share in shares))) if shares else []
    if len(shares) < 2 or not common:
        return None
    y_SR = np.array([[by_share[share][key] for key in common] for share in shares])
    x_S = np.array(shares) - fmean(shares)
    found = (x_S @ y_SR) / (x_S @ x_S)
    first, last = ((shares[place], float(y_SR[place].mean())) for place in (0, -1))
    return Slope(first, last, tuple(found.round(9).tolist()))  # what is constant has slope 0, and not 1e-18


def last_weight(trial: TrialRecord, term: str) -> float:
    """A term's weight, its mean over the last epochs; nan where it has none."""
    found = [m.metrics[f"weight/{term}"] for m in trial.history if f"weight/{term}" in m.metrics]
    return fmean(found[-LAST:]) if found else math.nan


def degradation_table(context: Context) -> Table | None:
    """A row a curve and quantity; None where no arm was varied in its noise."""
    blocks = tuple(
        rows
        for block in context.blocks
        if (rows := block_rows(block, [row for curve in varied(block.arms) for row in _rows(curve)])).rows
    )
    columns = (
        Column("noise", ("field",), "l"),
        Column("subset", ("subset",), "l"),
        Column("of", ("quantity",), "l"),
        Column("at the least", ("first_share", "first_mean")),
        Column("at the most", ("last_share", "last_mean")),
        Column("slope", ("slope_mean", "slope_sd")),
        Column("95 % interval", ("low", "high")),
        Column("n", ("n",)),
        Column("with noise it", ("verdict",), "l"),
    )
    notes = (
        "Slope: by least squares in each replicate that has every share; what the quantity gains as the share goes "
        "from 0 to 1, mean ± deviation. Interval: Student's t over these replicates; exploratory. In brackets the "
        "share; 0: the arm with true texts.",
        f"Weight: the mean over the last {LAST} epochs. One that falls with noise ends lower than with true texts: "
        "where arms start alike it fell faster, or rose less. Arms that were tuned may start from other weights.",
    )
    return Table("degradation", "What label noise costs", columns, blocks, context.notes(*notes)) if blocks else None


def _rows(curve: Curve) -> Iterator[Row]:
    if curve.field not in SHARES:
        return
    quantities: dict[str, tuple[Callable[[Arm], Mapping[Replicate, float]], int]] = {
        "test top-1 [%]": (_top1, 1),
        **{f"weight of {term}": (_weight_of(term), 3) for term in WEIGHTS if term in curve.subset.split("+")},
    }
    for name, (of, digits) in quantities.items():
        if (found := slope({share: of(arm) for share, arm in curve.arms.items()})) is not None:
            yield _row(curve, name, found, digits)


def _top1(arm: Arm) -> Mapping[Replicate, float]:
    return {key: 100 * number for key, number in arm.values(TEST).items()}


def _weight_of(term: str) -> Callable[[Arm], Mapping[Replicate, float]]:
    def of(arm: Arm) -> Mapping[Replicate, float]:
        found = {key: last_weight(trial, term) for key, trial in arm.chosen.items()}
        return {key: number for key, number in found.items() if not math.isnan(number)}

    return of


def _row(curve: Curve, quantity: str, found: Slope, digits: int) -> Row:
    mean, sd = mean_sd(found.by_replicate)
    low, high = found.interval
    ends = (Cell(f"{value:.{digits}f} ({share:g})", (share, value)) for share, value in (found.first, found.last))
    between = MISSING if math.isnan(low) else f"{signed(low, digits)} to {signed(high, digits)}"
    return (
        Cell(curve.field, (curve.field,)),
        Cell(curve.subset, (curve.subset,)),
        Cell(quantity, (quantity,)),
        *ends,
        Cell(signed(mean, digits) + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}"), (mean, sd)),
        Cell(between, (low, high)),
        Cell(str(len(found.by_replicate)), (len(found.by_replicate),)),
        Cell(found.verdict, (found.verdict,)),
    )

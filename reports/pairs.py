"""Several data sets and backbones side by side: where each arm won, and what each scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.comparison_tables import difference
from reports.comparisons import Comparison
from reports.formats import MISSING, Cell, Column, Rows, Table, interval, signed
from reports.published import HACE
from reports.select import TEST, Arm
from reports.statistics import mean_sd
from reports.tables import ARM, COUNTS, SEED_AND_FOLD, TOP1, Context, Row, marked, quantity_cell


def pairs_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """Each arm's gain over the baseline in every pair of data set and backbone, and how many it won.

    found: as of `comparisons.against_baseline`. None where no arm has several pairs.
    """
    if len(context.blocks) < 2:
        return None
    labels = dict.fromkeys(comparison.arm for comparison in found)
    groups = [(label, [c for c in found if c.arm == label and c.n]) for label in labels]
    rows = [
        Rows(label, (label,), (*map(_pair_row, group), _sum_row(group)), sums=1) for label, group in groups if group[1:]
    ]
    columns = (
        Column("data set", ("dataset",), "l"),
        Column("backbone", ("backbone",), "l"),
        Column("replicates", ("n_pairs",)),
        Column("gain [points]", ("gain_mean", "gain_sd")),
        Column("95 % interval", ("low", "high")),
        Column("won", ("won",)),
    )
    notes = (
        f"Gain: mean ± sample deviation (ddof 1) of test top-1 minus that of {context.baseline}, paired by seed and "
        "fold. Interval: t, over test sets where there are enough of them, else over the replicates.",
        "Won: the mean gain is above 0, however little. Last row: pairs won, and the mean over the pairs, of equal "
        "weight; whether such a mean is more than luck says the pooled table.",
        *([HACE] if any("hace" in arm.subset.split("+") for block in context.blocks for arm in block.arms) else []),
    )
    title = f"Test top-1 against {context.baseline}, pair by pair"
    return Table("pairs", title, columns, tuple(rows), context.notes(*notes), block_keys=("arm",)) if rows else None


def _pair_row(c: Comparison) -> Row:
    won = c.mean > 0
    return (
        Cell(c.block.dataset, (c.block.dataset,)),
        Cell(c.block.backbone, (c.block.backbone,)),
        Cell(str(c.n), (c.n,)),
        Cell(difference(c), (c.main.mean, c.main.sd)),
        Cell(interval(c.main.low, c.main.high), (c.main.low, c.main.high)),
        Cell("yes" if won else "no", (int(won),)),
    )


def _sum_row(group: Sequence[Comparison]) -> Row:
    mean, sd = mean_sd([c.mean for c in group])
    won = sum(c.mean > 0 for c in group)
    text = signed(mean, 1) + ("" if math.isnan(sd) else f" ± {sd:.1f}")
    return (
        Cell("all pairs", ("all",)),
        Cell(str(len(group)), ("",)),
        Cell(str(sum(c.n for c in group)), (sum(c.n for c in group),)),
        Cell(text, (mean, sd)),
        Cell(MISSING, (None, None)),
        Cell(f"{won} of {len(group)}", (won,)),
    )


def grid_table(context: Context) -> Table | None:
    """Test top-1, a row an arm and a column a data set with its backbone; None for a single one."""
    if len(context.blocks) < 2:
        return None
    labels = dict.fromkeys(arm.label for block in context.blocks for arm in block.arms)
    rows: Sequence[Row] = [
        (Cell(label, (label,)), *(_scored(block.arm(label)) for block in context.blocks)) for label in labels
    ]
    for number in range(1, len(context.blocks) + 1):
        rows = marked(rows, number)
    columns = (
        ARM,
        *(
            Column(f"{block.title} [%]", (f"top1_mean_{number}", f"top1_sd_{number}"))
            for number, block in enumerate(context.blocks, start=1)
        ),
    )
    notes = (SEED_AND_FOLD, COUNTS, "Bold: the best mean of a column, underlined: the second.")
    body = Rows("all data sets and backbones", (), tuple(rows))
    return Table("grid", "Test top-1 by arm and data set", columns, (body,), context.notes(*notes), block_keys=())


def _scored(arm: Arm | None) -> Cell:
    return quantity_cell(arm, TOP1) if arm is not None and arm.values(TEST) else Cell(MISSING, (math.nan, math.nan))

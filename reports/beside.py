"""Ours beside what was to be expected: the paper's numbers, and the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from reports.formats import MISSING, Cell, Column, Rows, Table, minus, signed
from reports.published import published
from reports.select import Arm
from reports.statistics import prediction_interval
from reports.tables import (
    ARM,
    CORRELATIONS,
    COUNT,
    COUNTS,
    NN_HIT,
    PEAK,
    SEED_AND_FOLD,
    SILHOUETTE,
    TOP1,
    Context,
    Quantity,
    Row,
    block_rows,
    count_cell,
    label_cell,
    mean_of,
    quantity_cell,
)


def published_table(context: Context) -> Table | None:
    """The paper's number beside ours, for pairs that are in the paper; None where there are none."""
    quantities = {q.metric: q for q in (TOP1, NN_HIT, SILHOUETTE, *CORRELATIONS, PEAK)}
    blocks = []
    for block in context.blocks:
        numbers = published(block.dataset, block.backbone)
        rows = [
            _published_row(arm, quantities[metric], number)
            for (label, metric), number in numbers.items()
            if (arm := block.arm(label)) is not None
        ]
        if rows:
            blocks.append(block_rows(block, rows))
    columns = (
        ARM,
        Column("quantity", ("quantity",), "l"),
        Column("ours", ("ours_mean", "ours_sd")),
        Column("paper", ("paper",)),
        Column("ours − paper", ("difference",)),
        Column("95 % prediction", ("predicted_low", "predicted_high")),
        COUNT,
    )
    notes = (
        SEED_AND_FOLD,
        COUNTS,
        "Paper: LARESA, tables 2, 3, 7 and 8; one seed (42). Prediction: where one more run of ours would lie (t); a "
        "published number is one run, so only one outside (!) is unlike ours.",
    )
    return Table("published", "Beside the paper", columns, tuple(blocks), context.notes(*notes)) if blocks else None


def _published_row(arm: Arm, quantity: Quantity, paper: float) -> Row:
    """paper: in the unit that is shown (percent for top-1 and NN-hit)."""
    ours = quantity_cell(arm, quantity)
    mean = mean_of(ours)
    low, high = prediction_interval(np.array([quantity.scale * v for v in arm.values(quantity.metric).values()]))
    span = f"{minus(f'{low:.{quantity.digits}f}')} to {minus(f'{high:.{quantity.digits}f}')}"
    return (
        label_cell(arm),
        Cell(quantity.title, (quantity.stem,)),
        ours,
        Cell(minus(f"{paper:g}"), (paper,)),
        Cell(signed(mean - paper, quantity.digits), (mean - paper,)),
        Cell(MISSING if math.isnan(low) else span + " !" * (not low <= paper <= high), (low, high)),
        count_cell(arm),
    )


def plan_table(context: Context, plan: Mapping[str, tuple[float, float]]) -> Table:
    """What was planned beside what came: name -> (planned, actual)."""
    columns = (
        Column("quantity", ("quantity",), "l"),
        Column("planned", ("planned",)),
        Column("actual", ("actual",)),
        Column("actual / planned", ("ratio",)),
    )
    rows = []
    for name, (planned, actual) in plan.items():
        ratio = actual / planned if planned else math.nan
        rows.append(
            (
                Cell(name, (name,)),
                Cell(f"{planned:,.6g}", (planned,)),
                Cell(f"{actual:,.6g}", (actual,)),
                Cell(MISSING if math.isnan(ratio) else f"{ratio:.2f}", (ratio,)),
            )
        )
    blocks = (Rows("all trials", (), tuple(rows)),)
    return Table("plan", "Plan against actual", columns, blocks, context.notes(), block_keys=())

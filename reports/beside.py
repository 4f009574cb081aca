"""The plan beside what came."""

from __future__ import annotations

import math
from collections.abc import Mapping

from reports.formats import MISSING, Cell, Column, Rows, Table
from reports.tables import Context


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

"""Multi-comparison matrix over several data sets and backbones: every arm against every other.

After Ismail-Fawaz et al., "An Approach to Multiple Comparison Benchmark Evaluations that is Stable Under Manipulation
of the Comparate Set", 2023 (arXiv:2305.11921): a cell depends on its two arms alone, never on which others there are.
"""

from __future__ import annotations

import math

import numpy as np

from reports.formats import MISSING, Cell, Column, Rows, Table, probability, signed
from reports.select import TEST, Block
from reports.statistics import mean_sd, paired_differences, sign_flip_p
from reports.tables import ARM, Context, Row


def matrix_table(context: Context, rng: np.random.Generator) -> Table | None:
    """Mean gain of the row's arm over the column's, blocks won and lost, and p; None for fewer than two blocks."""
    labels = dict.fromkeys(arm.label for block in context.blocks for arm in block.arms)
    if len(context.blocks) < 2 or len(labels) < 2:
        return None
    gains = {
        (a, b): np.array([g for block in context.blocks if not math.isnan(g := gain(block, a, b))])
        for a in labels
        for b in labels
        if a != b
    }
    order = sorted(labels, key=lambda label: -_mean_gain(gains, label))
    rows: list[Row] = [
        (Cell(a, (a,)), *(_cell(gains[a, b], rng) if a != b else Cell("", (None, None, None, None)) for b in order))
        for a in order
    ]
    columns = (
        ARM,
        *(
            Column(f"over {label}", (f"gain_{n}", f"won_{n}", f"lost_{n}", f"p_{n}"))
            for n, label in enumerate(order, start=1)
        ),
    )
    notes = (
        "Cell: mean over the blocks of the row's gain over the column's arm in points, each block its mean over paired "
        "replicates; blocks won / lost; two-sided sign-flip p over the blocks, unadjusted: exploratory.",
        "Rows and columns by mean gain over the others.",
    )
    body = Rows("all data sets and backbones", (), tuple(rows))
    title = "Every arm against every other, over all data sets and backbones"
    return Table("matrix", title, columns, (body,), context.notes(*notes), block_keys=())


def gain(block: Block, a: str, b: str) -> float:
    """Mean gain of arm a over arm b in points, over their pairs; nan where there is none."""
    one, other = block.arm(a), block.arm(b)
    if one is None or other is None:
        return math.nan
    found = list(paired_differences(one.values(TEST), other.values(TEST)).values())
    return round(100 * mean_sd(found)[0], 9) if found else math.nan


def _mean_gain(gains: dict[tuple[str, str], np.ndarray], label: str) -> float:
    found = [float(g.mean()) for (a, _), g in gains.items() if a == label and g.size]
    return sum(found) / len(found) if found else -math.inf


def _cell(gain_B: np.ndarray, rng: np.random.Generator) -> Cell:
    if not gain_B.size:
        return Cell(MISSING, (None, None, None, None))
    won, lost, p = int((gain_B > 0).sum()), int((gain_B < 0).sum()), sign_flip_p(gain_B, rng)
    mean = float(gain_B.mean())
    return Cell(f"{signed(mean, 1)} ({won}/{lost}), p {probability(p)}", (mean, won, lost, p))

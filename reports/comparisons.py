"""Is a difference more than luck? Arms against the baseline, variants against what they vary, all blocks pooled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reports.formats import MISSING, Cell, Column, Rows, Table, probability, signed
from reports.select import TEST, Arm, Block
from reports.statistics import (
    ALPHA,
    Floats,
    Pooled,
    bca_interval,
    holm,
    mean_sd,
    paired_differences,
    pooled,
    probability_better,
    probability_better_pooled,
    replicates_for_effect,
    replicates_needed,
    sign_flip_p,
    smallest_p,
)
from reports.tables import ARM, Context, Row, block_rows


@dataclass(frozen=True)
class Comparison:
    """One arm against another, paired by seed and fold, in points of test top-1. points: one difference a pair.

    p_holm is adjusted over all comparisons of the table.
    """

    block: Block
    arm: str
    against: str
    points: Floats
    mean: float
    sd: float
    low: float
    high: float
    p: float
    better: float
    p_holm: float = math.nan

    @property
    def n(self) -> int:
        return int(self.points.size)

    @property
    def significant(self) -> bool:
        return self.p_holm <= ALPHA


def against_baseline(blocks: Iterable[Block], rng: np.random.Generator) -> list[Comparison]:
    """Every other arm against the baseline of its block."""
    pairs = [(b, arm, b.arm(b.baseline)) for b in blocks for arm in b.arms if arm.label != b.baseline]
    return _compare(pairs, rng)


def variants(blocks: Iterable[Block], rng: np.random.Generator) -> list[Comparison]:
    """Every arm that changes something of a subset (shuffled labels, another weighting) against that subset's own."""
    pairs = [(block, arm, block.arm(arm.subset)) for block in blocks for arm in block.arms if arm.label != arm.subset]
    return _compare(pairs, rng)


def _compare(pairs: Iterable[tuple[Block, Arm, Arm | None]], rng: np.random.Generator) -> list[Comparison]:
    found = [_comparison(block, arm, other, rng) for block, arm, other in pairs if other is not None]
    adjusted = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


def _comparison(block: Block, arm: Arm, other: Arm, rng: np.random.Generator) -> Comparison:
    # Rounded far below one image of a test set: equal accuracies must not differ by floating-point dust.
    points_R = np.round(100 * paired_differences(arm.values(TEST), other.values(TEST)), 9)
    mean, sd = mean_sd(points_R)
    low, high = bca_interval(points_R, rng)
    p, better = sign_flip_p(points_R, rng), probability_better(points_R, rng)
    return Comparison(block, arm.label, other.label, points_R, mean, sd, low, high, p, better)


# ---------------------------------------------------------------------------------------------------- tables
COLUMNS = (
    Column("pairs", ("n_pairs",)),
    Column("difference [points]", ("difference_mean", "difference_sd")),
    Column("95 % interval", ("low", "high")),
    Column("p", ("p",)),
    Column("p (Holm)", ("p_holm",)),
    Column("P(better)", ("probability_better",)),
    Column("pairs for power .8", ("pairs_for_power",)),
)
NOTES = (
    "Difference: mean ± sample deviation (ddof 1) over the pairs, each one seed and fold.",
    "Interval: BCa bootstrap of the mean over the pairs; under about 10 pairs it is shorter than its name promises.",
    "p: exact sign-flip test, two-sided; p (Holm): adjusted over all rows of this table.",
    "P(better): share of 9,999 Bayesian bootstrap draws (Dirichlet weights over the pairs) with a mean above 0; "
    "it is 1 as soon as every difference is positive, however few there are.",
    "Pairs for power .8: if the difference and deviation seen here were the true ones (paired t-test at .05).",
)


def baseline_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """Every arm against the baseline; None where there is nothing to compare."""
    return _table(context, "comparisons", f"Test top-1 against {context.baseline}", found)


def variants_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """Controls and remedies against the arm they vary; None where the study has none."""
    return _table(context, "variants", "Controls and remedies against the arm they vary", found)


def _table(context: Context, name: str, title: str, found: Sequence[Comparison]) -> Table | None:
    rows = [
        block_rows(block, [_row(comparison) for comparison in found if comparison.block is block])
        for block in context.blocks
    ]
    columns = (ARM, Column("against", ("against",), "l"), *COLUMNS)
    blocks = tuple(block for block in rows if block.rows)
    verdict = significance_note(found) or " ".join(["*: p (Holm) at most .05.", *_short_of_pairs(found)])
    return Table(name, title, columns, blocks, context.notes(*NOTES), verdict=verdict) if found else None


def _row(comparison: Comparison) -> Row:
    c = comparison
    needed = _pairs_for_power(c)
    return (
        Cell(c.arm, (c.arm,)),
        Cell(c.against, (c.against,)),
        Cell(str(c.n), (c.n,)),
        Cell(difference(c), (c.mean, c.sd)),
        Cell(interval(c.low, c.high), (c.low, c.high)),
        Cell(probability(c.p), (c.p,)),
        Cell(probability(c.p_holm) + "*" * c.significant, (c.p_holm,)),
        Cell(MISSING if math.isnan(c.better) else f"{c.better:.2f}", (c.better,)),
        Cell(MISSING if needed is None else f"{needed:,}", (needed,)),
    )


def difference(comparison: Comparison) -> str:
    """ "+1.1 ± 0.8", in points."""
    text = signed(comparison.mean, 1)
    return text if math.isnan(comparison.sd) else f"{text} ± {comparison.sd:.1f}"


def interval(low: float, high: float) -> str:
    return MISSING if math.isnan(low) else f"{signed(low, 1)} to {signed(high, 1)}"


def _pairs_for_power(comparison: Comparison) -> int | None:
    if comparison.n < 2 or comparison.mean == 0:
        return None
    return replicates_for_effect(comparison.mean, comparison.sd)


def significance_note(found: Sequence[Comparison]) -> str:
    """Why no test here can be significant, in words, where too few pairs forbid it; "" where they don't."""
    n, tests = max((c.n for c in found), default=0), sum(c.n > 0 for c in found)
    if tests == 0:
        return "No replicate has both arms of a row: nothing could be compared."
    least = smallest_p(n)
    if tests * least <= ALPHA:
        return ""
    needed = replicates_needed(ALPHA / tests)
    if least <= ALPHA:
        return (
            f"With n = {n} pairs the smallest p this test can give is {least:.2g}; over {tests} comparisons Holm makes "
            f"that {min(1, tests * least):.2g}, so no row can be significant at .05: that takes {needed} pairs."
        )
    return (
        f"n too small: with n = {n} the smallest p this test can give is {least:.2g}, so no difference, however large, "
        f"can be significant at .05: that takes {replicates_needed()} pairs for one comparison and {needed} "
        f"for {tests} of them."
    )


def _short_of_pairs(found: Sequence[Comparison]) -> list[str]:
    """The rows that can't be significant in a table whose others can, for they lost replicates: one sentence."""
    rows = [f"{c.arm} (n = {c.n})" for c in found if c.n and smallest_p(c.n) > ALPHA]
    tests = sum(c.n > 0 for c in found)
    if not rows:
        return []
    needed = (
        f"{replicates_needed()} pairs for one comparison and {replicates_needed(ALPHA / tests)} for {tests} of them"
    )
    return [f"n too small for any verdict on {', '.join(rows)}: that takes {needed}."]


def pooled_table(context: Context, found: Sequence[Comparison], rng: np.random.Generator) -> Table | None:
    """Each arm against the baseline over all blocks; None unless there are several."""
    rows = []
    for label in dict.fromkeys(comparison.arm for comparison in found):
        groups = [c.points for c in found if c.arm == label and c.n]
        if len(groups) > 1:
            rows.append(_pooled_row(label, pooled(groups), probability_better_pooled(groups, rng)))
    columns = (
        ARM,
        Column("data set and backbone pairs", ("pairs",)),
        Column("replicates", ("replicates",)),
        Column("difference [points]", ("difference_mean",)),
        Column("95 % interval", ("low", "high")),
        Column("P(better)", ("probability_better",)),
        Column("sd between pairs", ("sd_between",)),
        Column("sd within a pair", ("sd_within",)),
    )
    notes = (
        "Replicates within pairs; every pair weighs the same. Interval: t with one degree of freedom fewer than pairs, "
        "so it speaks of further pairs like these and is wide for few.",
        "P(better): share of 9,999 Bayesian bootstrap draws, of pairs and of replicates in each, with a mean above 0.",
        "sd between: of the pairs' true differences, by the method of moments; sd within: of replicates in a pair.",
    )
    blocks = (Rows("all data sets and backbones", (), tuple(rows)),)
    title = f"Test top-1 against {context.baseline}, pooled"
    return Table("pooled", title, columns, blocks, context.notes(*notes), block_keys=()) if rows else None


def _pooled_row(label: str, estimate: Pooled, better: float) -> Row:
    e = estimate
    return (
        Cell(label, (label,)),
        Cell(str(e.pairs), (e.pairs,)),
        Cell(str(e.replicates), (e.replicates,)),
        Cell(signed(e.mean, 1), (e.mean,)),
        Cell(interval(e.low, e.high), (e.low, e.high)),
        Cell(MISSING if math.isnan(better) else f"{better:.2f}", (better,)),
        Cell(MISSING if math.isnan(e.sd_between) else f"{e.sd_between:.1f}", (e.sd_between,)),
        Cell(MISSING if math.isnan(e.sd_within) else f"{e.sd_within:.1f}", (e.sd_within,)),
    )

"""The tables of comparisons: is a difference more than luck? Primary contrasts are told from exploratory rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reports.claims import FIXED, METHODS, SEQUENTIAL, SETS, Claim, Design
from reports.comparisons import Comparison
from reports.formats import MISSING, Cell, Column, Rows, Table, interval, probability, signed
from reports.sequential import anytime_p, fewest
from reports.statistics import (
    ALPHA,
    Pooled,
    pooled,
    replicates_for_effect,
    replicates_needed,
    smallest_p,
)
from reports.tables import ARM, Context, Row, block_rows


def columns(margin: float) -> tuple[Column, ...]:
    return (
        Column("pairs", ("n_pairs",)),
        Column("test sets", ("n_test_sets",)),
        Column("difference [points]", ("difference_mean", "difference_sd")),
        Column("95 % interval", ("low", "high")),
        Column("p, these sets", ("p_these",)),
        Column("p, new sets", ("p_new",)),
        Column("p (Holm)", ("p_holm",)),
        Column(f"within ±{margin:g}", ("no_worse", "no_better")),
        Column("n for power .8", ("n_for_power",)),
    )


def _notes(design: Design) -> tuple[str, ...]:
    interval_by, test_by = METHODS[design.kind]
    return (
        "Difference: mean ± sample deviation (ddof 1). With at least "
        f"{SETS} distinct test sets it is over test sets, the pairs of one averaged, and claims something of new test "
        "sets; with fewer it is over pairs (a seed and fold each) and speaks of these test sets alone.",
        f"Interval: {interval_by} over the units of the claim. p: {test_by}, two-sided; p (Holm): "
        + (
            "adjusted over the primary contrasts alone; the other rows are exploratory, adjusted among themselves, and "
            "get no star."
            if design.contrasts
            else "adjusted over all rows of this table."
        ),
        f"Within ±{design.margin:g} (points): no worse, no better or equivalent by more than that, by "
        + (
            "the confidence sequence."
            if design.kind == SEQUENTIAL
            else "one-sided t-tests at .05 (two for equivalent)."
        ),
        "n for power .8: units, if the difference and deviation seen here were the true ones (paired t-test at .05).",
    )


def primary_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """The contrasts named in advance; None where the study named none."""
    return _table(context, "primary", "Primary contrasts, named before training", found)


def baseline_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """Every arm against the baseline; None where there is nothing to compare."""
    return _table(context, "comparisons", f"Test top-1 against {context.baseline}", found)


def variants_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """Controls and other readings against the arm they vary; None where the study has none."""
    return _table(context, "variants", "Controls and variants against the arm they vary", found)


def _table(context: Context, name: str, title: str, found: Sequence[Comparison]) -> Table | None:
    if not found:
        return None
    design = found[0].design
    rows = [block_rows(block, [_row(c) for c in found if c.block is block]) for block in context.blocks]
    blocks = tuple(block for block in rows if block.rows)
    shown = (ARM, Column("against", ("against",), "l"), *columns(design.margin))
    verdict = significance_note(found) or " ".join(["*: p (Holm) at most .05.", *_short(found)])
    return Table(name, title, shown, blocks, context.notes(*_notes(design)), verdict=verdict)


def _row(c: Comparison) -> Row:
    needed = _needed(c)
    exploratory = bool(c.design.contrasts) and not c.primary
    star = "*" * c.significant + " (these sets)" * (c.significant and not c.about_new) + " expl." * exploratory
    return (
        Cell(c.arm, (c.arm,)),
        Cell(c.against, (c.against,)),
        Cell(str(c.n), (c.n,)),
        Cell(str(c.new.n), (c.new.n,)),
        Cell(difference(c), (c.main.mean, c.main.sd)),
        Cell(interval(c.main.low, c.main.high), (c.main.low, c.main.high)),
        Cell(probability(c.these.p), (c.these.p,)),
        Cell(probability(c.new.p if c.about_new else math.nan), (c.new.p if c.about_new else math.nan,)),
        Cell(probability(c.p_holm) + star, (c.p_holm,)),
        Cell(within(c), tuple(map(int, c.beyond_margin))),
        Cell(MISSING if needed is None else f"{needed:,}", (needed,)),
    )


def within(c: Comparison) -> str:
    """What may be said of the margin."""
    words = {(True, True): "equivalent", (True, False): "no worse", (False, True): "no better"}
    return words.get(c.beyond_margin, MISSING)


def difference(comparison: Comparison) -> str:
    """ "+1.1 ± 0.8", in points."""
    text = signed(comparison.main.mean, 1)
    return text if math.isnan(comparison.main.sd) else f"{text} ± {comparison.main.sd:.1f}"


def _needed(c: Comparison) -> int | None:
    if c.main.n < 2 or c.main.mean == 0:
        return None
    return replicates_for_effect(c.main.mean, c.main.sd)


def smallest_of(claim: Claim, design: Design) -> float:
    """The smallest p that so many units can give."""
    if design.kind == FIXED:
        return smallest_p(claim.n)
    return anytime_p(np.ones(claim.n))


def units_needed(design: Design, alpha: float) -> int:
    return replicates_needed(alpha) if design.kind == FIXED else fewest(alpha)


def significance_note(found: Sequence[Comparison]) -> str:
    """Why no test here can be significant, in words, where too few pairs forbid it; "" where they don't."""
    counted = [c for c in found if c.n and (c.primary or not c.design.contrasts)]
    if not [c for c in found if c.n]:
        return "No replicate has both arms of a row: nothing could be compared."
    if not counted:
        return ""
    tests, most = len(counted), max(counted, key=lambda c: c.main.n)
    least, n, design = smallest_of(most.main, most.design), most.main.n, most.design
    if tests * least <= ALPHA:
        return ""
    needed, units = units_needed(design, ALPHA / tests), "test sets" if most.about_new else "pairs"
    if least <= ALPHA:
        return (
            f"With n = {n} {units} the smallest p this test can give is {least:.2g}; over {tests} comparisons Holm "
            "makes "
            f"that {min(1, tests * least):.2g}, so no row can be significant at .05: that takes {needed} {units}."
        )
    return (
        f"n too small: with n = {n} the smallest p this test can give is {least:.2g}, so no difference, however large, "
        f"can be significant at .05: that takes {units_needed(design, ALPHA)} {units} for one comparison and {needed} "
        f"for {tests} of them."
    )


def _short(found: Sequence[Comparison]) -> list[str]:
    """The rows that can't be significant in a table whose others can, for they lost replicates: one sentence."""
    rows = [f"{c.arm} (n = {c.main.n})" for c in found if c.n and smallest_of(c.main, c.design) > ALPHA]
    tests = sum(c.n > 0 for c in found)
    if not rows:
        return []
    design = found[0].design
    needed = (
        f"{units_needed(design, ALPHA)} pairs for one comparison and {units_needed(design, ALPHA / tests)} for {tests}"
    )
    return [f"n too small for any verdict on {', '.join(rows)}: that takes {needed} of them."]


def pooled_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """Each arm against the baseline over all blocks; None unless there are several."""
    rows = []
    for label in dict.fromkeys(comparison.arm for comparison in found):
        groups = [c.main.units for c in found if c.arm == label and c.n]
        if len(groups) > 1:
            rows.append(_pooled_row(label, pooled(groups)))
    shown = (
        ARM,
        Column("data set and backbone pairs", ("pairs",)),
        Column("replicates", ("replicates",)),
        Column("difference [points]", ("difference_mean",)),
        Column("95 % interval", ("low", "high")),
        Column("sd between pairs", ("sd_between",)),
        Column("sd within a pair", ("sd_within",)),
        Column("I² [%]", ("i_squared",)),
        Column("p (pairs differ)", ("p_heterogeneity",)),
    )
    notes = (
        "Replicates (test sets where there are enough) within pairs; every pair weighs the same. Interval: t with one "
        "degree of freedom fewer than pairs, so it speaks of further pairs like these and is wide for few.",
        "sd between: of the pairs' true differences, by the method of moments; sd within: of replicates in a pair.",
        "I²: share of the variance of the pairs' means that is due to true differences between them; p: of "
        "Cochran's Q, by the F distribution.",
    )
    blocks = (Rows("all data sets and backbones", (), tuple(rows)),)
    title = f"Test top-1 against {context.baseline}, pooled"
    return Table("pooled", title, shown, blocks, context.notes(*notes), block_keys=()) if rows else None


def _pooled_row(label: str, e: Pooled) -> Row:
    def plain(number: float, digits: int = 1, scale: float = 1) -> Cell:
        return Cell(MISSING if math.isnan(number) else f"{scale * number:.{digits}f}", (number,))

    return (
        Cell(label, (label,)),
        Cell(str(e.pairs), (e.pairs,)),
        Cell(str(e.replicates), (e.replicates,)),
        Cell(signed(e.mean, 1), (e.mean,)),
        Cell(interval(e.low, e.high), (e.low, e.high)),
        plain(e.sd_between),
        plain(e.sd_within),
        plain(e.i_squared, 0, 100),
        Cell(probability(e.p_heterogeneity), (e.p_heterogeneity,)),
    )

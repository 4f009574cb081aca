"""A sequential study: whether its primary contrasts are decided, and how many replicates more are likely needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reports import comparisons
from reports.candidates import split
from reports.claims import Design
from reports.comparisons import Comparison
from reports.select import to_blocks
from reports.sequential import confidence_sequence, fewest
from reports.statistics import ALPHA, replicates_for_effect
from sweeps.service.tracking.records import TrialRecord


def contrasts_of(records: Sequence[TrialRecord], design: Design) -> list[Comparison]:
    """The primary contrasts as they stand; those without a trial of both arms are left out."""
    evidence, _ = split(records)
    blocks = to_blocks(evidence) if evidence else ()
    return comparisons.primary(blocks, design, np.random.default_rng(0))


def first_look(contrasts: int) -> int:
    """Replicates without which nothing can be decided, with alpha shared among so many contrasts."""
    return fewest(ALPHA / contrasts)


def is_decided(c: Comparison, tests: int) -> bool:
    """Whether the confidence sequence, at alpha / tests, lies to one side of 0, or within the margin."""
    low, high = confidence_sequence(c.main.units, 1 - ALPHA / tests)
    return low > 0 or high < 0 or (low >= -c.design.margin and high <= c.design.margin)


def undecided(records: Sequence[TrialRecord], design: Design) -> list[str]:
    """The primary contrasts that are not decided yet, in words; all of them, where there is nothing to compare."""
    found = {(c.arm, c.against): c for c in contrasts_of(records, design)}
    tests = len(design.contrasts)
    return [
        f"{arm} against {against}"
        for arm, against in design.contrasts
        if (c := found.get((arm, against))) is None or not is_decided(c, tests)
    ]


def outlook(records: Sequence[TrialRecord], design: Design) -> list[str]:
    """A line for each primary contrast: what there is, and how many units its effect so far would need for power .8."""
    lines = []
    for c in contrasts_of(records, design):
        if c.main.n < 2 or c.main.mean == 0:
            continue
        needed = replicates_for_effect(c.main.mean, c.main.sd, alpha=ALPHA / len(design.contrasts))
        more = f"{needed - c.main.n:,} more" if needed > c.main.n else "none more"
        lines.append(
            f"{c.arm} against {c.against}: {c.mean:+.1f} ± {c.main.sd:.1f} points over {c.where}; if that is the "
            f"truth, power .8 takes {needed:,}: {more}"
        )
    return lines

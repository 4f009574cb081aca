"""Arms in pairs: their differences by replicate, and what may be claimed of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reports.claims import SEQUENTIAL, Claim, Design, claims, in_order, speaks_of_new
from reports.select import TEST, Arm, Block, Replicate
from reports.statistics import ALPHA, beyond_margin_p, holm, paired_differences


@dataclass(frozen=True)
class Comparison:
    """One arm against another, paired by seed and fold, in points of test top-1.

    pairs: the difference of each. these, new: the claims about these test sets and about new ones. p_holm is adjusted
    over the primary contrasts, or over all other comparisons of the table; with `primary` no star but theirs is given.
    """

    block: Block
    arm: str
    against: str
    pairs: Mapping[Replicate, float]
    these: Claim
    new: Claim
    design: Design
    primary: bool = False
    p_holm: float = math.nan

    @property
    def n(self) -> int:
        return self.these.n

    @property
    def about_new(self) -> bool:
        """Whether there are test sets enough to speak of new ones; else only these are spoken of."""
        return speaks_of_new(self.new)

    @property
    def main(self) -> Claim:
        return self.new if self.about_new else self.these

    @property
    def mean(self) -> float:
        return self.main.mean

    @property
    def significant(self) -> bool:
        return self.p_holm <= ALPHA and (self.primary or not self.design.contrasts)

    @property
    def beyond_margin(self) -> tuple[bool, bool]:
        """Whether it is no worse, and no better, by more than the margin.

        By one-sided t-tests at .05; of a sequential design by its confidence sequence, for those may not be looked at.
        """
        margin = self.design.margin
        if self.design.kind == SEQUENTIAL:
            return self.main.low > -margin, self.main.high < margin
        no_worse, no_better = beyond_margin_p(self.main.units, margin)
        return no_worse <= ALPHA, no_better <= ALPHA

    @property
    def where(self) -> str:
        """What is spoken of, in words: "10 test sets", "6 pairs on these 2 test sets"."""
        sets = f"{self.new.n} test set" + "s" * (self.new.n != 1)
        return (
            sets
            if self.about_new
            else f"{self.n} pair{'s' * (self.n != 1)} on "
            + (f"these {sets}" if self.new.n != 1 else "this one test set")
        )


def primary(blocks: Iterable[Block], design: Design, rng: np.random.Generator) -> list[Comparison]:
    """The study's primary contrasts in every block that has both arms; Holm over them alone."""
    named = [(b, b.arm(arm), b.arm(against)) for b in blocks for arm, against in design.contrasts]
    found = [_comparison(b, a, o, design, rng) for b, a, o in named if a is not None and o is not None]
    return [replace(c, primary=True) for c in _adjusted(found)]


def against_baseline(
    blocks: Iterable[Block], design: Design, rng: np.random.Generator, first: Sequence[Comparison] = ()
) -> list[Comparison]:
    """Every other arm against the baseline of its block. first: the primary ones, which are taken as they are."""
    pairs = [(b, arm, b.arm(b.baseline)) for b in blocks for arm in b.arms if arm.label != b.baseline]
    return _compare(pairs, design, rng, first)


def variants(
    blocks: Iterable[Block], design: Design, rng: np.random.Generator, first: Sequence[Comparison] = ()
) -> list[Comparison]:
    """Every arm that changes something of a subset (shuffled labels, another weighting) against that subset's own."""
    pairs = [(block, arm, block.arm(arm.subset)) for block in blocks for arm in block.arms if arm.label != arm.subset]
    return _compare(pairs, design, rng, first)


def _compare(
    pairs: Iterable[tuple[Block, Arm, Arm | None]],
    design: Design,
    rng: np.random.Generator,
    first: Sequence[Comparison],
) -> list[Comparison]:
    known = {(c.block.title, frozenset((c.arm, c.against))): c for c in first}
    found, own = [], []
    for block, arm, other in pairs:
        if other is None:
            continue
        named = known.get((block.title, frozenset((arm.label, other.label))))
        if named is not None:
            found.append(named if named.arm == arm.label else turned(named))
        else:
            own.append(_comparison(block, arm, other, design, rng))
            found.append(own[-1])
    adjusted = dict(zip(map(id, own), _adjusted(own), strict=True))
    return [adjusted.get(id(c), c) for c in found]


def turned(c: Comparison) -> Comparison:
    """The same comparison from the other side."""

    def of(claim: Claim) -> Claim:
        return replace(claim, units=-claim.units, mean=-claim.mean, low=-claim.high, high=-claim.low)

    pairs = {key: -value for key, value in c.pairs.items()}
    return replace(c, arm=c.against, against=c.arm, pairs=pairs, these=of(c.these), new=of(c.new))


def _adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    return [replace(c, p_holm=p) for c, p in zip(found, holm([c.main.p for c in found]), strict=True)]


def _comparison(block: Block, arm: Arm, other: Arm, design: Design, rng: np.random.Generator) -> Comparison:
    # Rounded far below one image of a test set: equal accuracies must not differ by floating-point dust.
    points = {k: round(100 * d, 9) for k, d in paired_differences(arm.values(TEST), other.values(TEST)).items()}
    points = in_order(points, design)
    return Comparison(block, arm.label, other.label, points, *claims(points, arm, design, rng), design)


def not_compared(blocks: Collection[Block], design: Design) -> list[str]:
    """A sentence for each primary contrast of which no block has both arms."""
    return [
        f"Primary contrast {arm} against {against}: there are no trials of both, so nothing was compared."
        for arm, against in design.contrasts
        if not any(block.arm(arm) and block.arm(against) for block in blocks)
    ]

"""Factorial effects: where the subsets are every combination of some terms, each term's effect uses all arms.

With k terms there are 2^k arms. A term's main effect is the mean of the 2^(k-1) arms that have it minus the mean of
those that lack it, an interaction half the difference that one term makes to the other's effect (Box, Hunter and
Hunter, Statistics for Experimenters, 2nd ed., ch. 5); both by replicate, so that they are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from reports.claims import Claim, Design, claims, in_order, speaks_of_new
from reports.formats import Cell, Column, Table, interval, probability, signed
from reports.select import TEST, Arm, Block
from reports.statistics import holm
from reports.tables import Context, Row, block_rows


@dataclass(frozen=True)
class Effect:
    """Of `terms` together: one is a main effect, several an interaction; in points of test top-1."""

    block: Block
    terms: tuple[str, ...]
    these: Claim
    new: Claim
    p_holm: float = float("nan")

    @property
    def main(self) -> Claim:
        return self.new if speaks_of_new(self.new) else self.these


def factorial(block: Block) -> dict[frozenset[str], Arm]:
    """Terms beside the base term -> arm, where the plain subsets are a factorial of two terms or more; else {}."""
    plain = {arm.label: arm for arm in block.arms if arm.label == arm.subset}
    bases = {label.split("+")[0] for label in plain}
    found = {frozenset(label.split("+")[1:]): arm for label, arm in plain.items()}
    terms = frozenset[str]().union(*found) if found else frozenset[str]()
    whole = len(bases) == 1 and len(terms) >= 2 and len(found) == len(plain) == 2 ** len(terms)
    return found if whole else {}


def effects(blocks: Iterable[Block], design: Design, rng: np.random.Generator) -> list[Effect]:
    """Main effects and interactions of every block that is a factorial; Holm over all of them."""
    found = [effect for block in blocks for effect in _of(block, design, rng)]
    adjusted = holm([effect.main.p for effect in found])
    return [replace(effect, p_holm=p) for effect, p in zip(found, adjusted, strict=True)]


def _of(block: Block, design: Design, rng: np.random.Generator) -> list[Effect]:
    arms = factorial(block)
    values = {terms: arm.values(TEST) for terms, arm in arms.items()}
    common = set.intersection(*(set(own) for own in values.values())) if values else set()
    if not common:
        return []
    names = max(arms.values(), key=lambda arm: arm.subset.count("+")).subset.split("+")[1:]
    some, made = arms[frozenset()], []
    for size in range(1, len(names) + 1):
        for terms in combinations(names, size):
            signs = {has: (-1) ** len(set(terms) - has) for has in values}
            points = {
                key: round(100 * sum(sign * values[has][key] for has, sign in signs.items()) * 2 / len(values), 9)
                for key in common
            }
            made.append(
                Effect(block, terms, *claims(in_order(dict(sorted(points.items())), design), some, design, rng))
            )
    return made


def effects_table(context: Context, found: Sequence[Effect]) -> Table | None:
    """What each term does, over all others; None where no block is a factorial."""
    rows = [block_rows(block, [_row(effect) for effect in found if effect.block is block]) for block in context.blocks]
    columns = (
        Column("effect of", ("effect",), "l"),
        Column("pairs", ("n_pairs",)),
        Column("test sets", ("n_test_sets",)),
        Column("effect [points]", ("effect_mean", "effect_sd")),
        Column("95 % interval", ("low", "high")),
        Column("p", ("p",)),
        Column("p (Holm)", ("p_holm",)),
    )
    notes = (
        "The subsets are every combination of these terms. Effect of a term: mean of the arms that have it minus "
        "mean of those that lack it, by replicate; of a × b: half of what b changes of a's effect.",
        "n, interval and p as in the tables of comparisons; exploratory; p (Holm): adjusted over all rows.",
    )
    blocks = tuple(block for block in rows if block.rows)
    return Table("effects", "Main effects and interactions", columns, blocks, context.notes(*notes)) if found else None


def _row(effect: Effect) -> Row:
    name, main = " × ".join(effect.terms), effect.main
    text = signed(main.mean, 1) + (f" ± {main.sd:.1f}" if main.n > 1 else "")
    return (
        Cell(name, (name,)),
        Cell(str(effect.these.n), (effect.these.n,)),
        Cell(str(effect.new.n), (effect.new.n,)),
        Cell(text, (main.mean, main.sd)),
        Cell(interval(main.low, main.high), (main.low, main.high)),
        Cell(probability(main.p), (main.p,)),
        Cell(probability(effect.p_holm), (effect.p_holm,)),
    )

"""What a mean difference is a claim about: these test sets, or new ones like them; each has its own n.

On these test sets the units are pairs (a seed and fold each): another seed would give another difference. On new ones
they are the distinct test sets, a set's pairs averaged: replicates that share their test images share its luck too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from reports.select import Arm, Replicate
from reports.sequential import anytime_p, confidence_sequence
from reports.statistics import ALPHA, Floats, mean_sd, replicates_needed, sign_flip_p, t_interval

SETS = replicates_needed(ALPHA)  # test sets without which nothing can be claimed of new ones
FIXED, SEQUENTIAL = "fixed", "sequential"  # designs: how many replicates was known before; or looked at in between
MARGIN = 1.0  # points: what counts as no difference unless --margin says otherwise
Contrast = tuple[str, str]  # (arm, against)
METHODS = {  # interval, test
    FIXED: ("t", "sign-flip test (exact up to 16 units)"),
    SEQUENTIAL: ("confidence sequence", "e-process"),
}


@dataclass(frozen=True)
class Claim:
    """A mean difference over `units`, in points; low to high: its 95 % interval."""

    units: Floats
    mean: float
    sd: float
    low: float
    high: float
    p: float

    @property
    def n(self) -> int:
        return int(self.units.size)


@dataclass(frozen=True)
class Design:
    """What was fixed before anything was trained, and how the replicates came about.

    contrasts: the primary ones; none: every comparison of a table counts alike. replicates: in the order in which they
    were planned. same: fingerprint of a test set -> that of the one with which it shares images, where some do.
    margin: points within which arms count as equivalent.
    """

    contrasts: tuple[Contrast, ...] = ()
    kind: str = FIXED
    replicates: tuple[Replicate, ...] = ()
    same: Mapping[str, str] = field(default_factory=dict)
    margin: float = MARGIN


def claims(
    points: Mapping[Replicate, float], arm: Arm, design: Design, rng: np.random.Generator
) -> tuple[Claim, Claim]:
    """Of the replicates' differences: about these test sets, and about new ones. arm: whose trials tell the sets."""
    sets = {key: tested_on(arm, key, design.same) for key in points}
    return _claim(points.values(), design, rng), _claim(by_test_set(points, sets, design.kind), design, rng)


def in_order(points: Mapping[Replicate, float], design: Design) -> dict[Replicate, float]:
    """The replicates as they were planned, then the others."""
    place = {key: number for number, key in enumerate(design.replicates)}
    return dict(sorted(points.items(), key=lambda item: place.get(item[0], len(place))))


def speaks_of_new(new: Claim) -> bool:
    """Whether there are test sets enough for a claim about new ones."""
    return new.n >= SETS


def _claim(units: Iterable[float], design: Design, rng: np.random.Generator) -> Claim:
    u = np.array(list(units), dtype=np.float64)
    if design.kind == SEQUENTIAL:
        return Claim(u, *mean_sd(u), *confidence_sequence(u), anytime_p(u))
    return Claim(u, *mean_sd(u), *t_interval(u), sign_flip_p(u, rng))


def tested_on(arm: Arm, key: Replicate, same: Mapping[str, str]) -> str:
    """What tells the replicate's test images from others': their fingerprint; where none was recorded, the fold."""
    found = arm.chosen[key].provenance.get("test_fingerprint") or f"fold {key[1]}"
    return same.get(found, found)


def by_test_set(points: Mapping[Replicate, float], sets: Mapping[Replicate, str], design: str = FIXED) -> list[float]:
    """A difference a test set: the mean of its pairs; of a sequential design the first one, since what was once looked
    at may not change."""
    groups: dict[str, list[float]] = defaultdict(list)
    for key, value in points.items():
        groups[sets[key]].append(value)
    return [group[0] if design == SEQUENTIAL else math.fsum(group) / len(group) for group in groups.values()]

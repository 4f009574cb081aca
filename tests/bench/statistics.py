"""The simulations that justify the report's statistics: errors, coverage, replicates needed; `make bench` prints them.

A difference of arms on replicate r of test set f is sqrt(share) u_f + sqrt(1 - share) e_r, both standard normal: share
of the variance is the set's. Correlated sets have a component g in common: u_f = sqrt(.3) g + sqrt(.7) v_f.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from reports.claims import by_test_set
from reports.sequential import confidence_sequence, e_values
from reports.statistics import ALPHA, Floats, beyond_margin_p, prediction_interval, sign_flip_p, t_interval

DRAWS = 2000
LOOKS = 30
Generator = np.random.Generator


def differences(
    rng: Generator, pairs: int, sets: int, share: float, correlation: float = 0.0
) -> dict[tuple[int, int], float]:
    """(seed, fold) -> difference of one sweep under the null, seeds going round the folds."""
    common, own = rng.normal(), rng.normal(size=sets)
    of_set = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    noise = rng.normal(size=pairs)
    return {
        (seed, seed % sets): math.sqrt(share) * of_set[seed % sets] + math.sqrt(1 - share) * noise[seed]
        for seed in range(pairs)
    }


def error_of_new(rng: Generator, draws: int, pairs: int, sets: int, share: float, correlation: float = 0.0) -> float:
    """How often the claim about new test sets is made under the null."""

    def once() -> bool:
        points = differences(rng, pairs, sets, share, correlation)
        units = by_test_set(points, {key: str(key[1]) for key in points})
        return sign_flip_p(np.array(units), rng) <= ALPHA

    return sum(once() for _ in range(draws)) / draws


def error_of_pairs(rng: Generator, draws: int, pairs: int, sets: int, share: float) -> float:
    """The same where every pair counts, as if it had test images of its own: what the claim about these sets is not."""

    def once() -> bool:
        points = differences(rng, pairs, sets, share)
        return sign_flip_p(np.array(list(points.values())), rng) <= ALPHA

    return sum(once() for _ in range(draws)) / draws


def coverage(rng: Generator, draws: int, n: int) -> tuple[float, float]:
    """How often the t interval holds the mean, and the prediction interval one further draw."""
    rows = rng.normal(size=(draws, n + 1))
    hits = [0, 0]
    for row in rows:
        for which, (interval, truth) in enumerate(((t_interval, 0.0), (prediction_interval, row[-1]))):
            low, high = interval(row[:-1])
            hits[which] += bool(low <= truth <= high)
    return hits[0] / draws, hits[1] / draws


def error_of_equivalence(rng: Generator, draws: int, n: int) -> float:
    """How often arms are called equivalent that lie a margin apart."""
    rows = rng.normal(1.0, 0.5, size=(draws, n))
    return sum(max(beyond_margin_p(row, 1.0)) <= ALPHA for row in rows) / draws


def error_of_looking(rng: Generator, draws: int, sample: Callable[..., Floats]) -> float:
    """How often the e-process ever rejects a true null in LOOKS looks."""
    return float((e_values(sample(size=(draws, LOOKS))).max(1) >= 1 / ALPHA).mean())


def sequential_n(rng: Generator, draws: int, effect: float) -> tuple[float, float]:
    """(median number of replicates until the effect is found, share found within LOOKS)."""
    found = e_values(rng.normal(effect, 1, size=(draws, LOOKS))) >= 1 / ALPHA
    first = np.where(found.any(1), found.argmax(1) + 1, LOOKS)
    return float(np.median(first)), float(found.any(1).mean())


def sequence_misses(rng: Generator, draws: int) -> float:
    """How often a confidence sequence ever excludes the truth in LOOKS looks."""
    return (
        sum(
            any(not low <= 0 <= high for low, high in (confidence_sequence(row[:n]) for n in range(6, LOOKS + 1, 3)))
            for row in rng.normal(size=(draws, LOOKS))
        )
        / draws
    )


def simulations() -> list[dict[str, object]]:
    """A row a simulation; baseline: what it should be (at most)."""
    rng = np.random.default_rng(0)
    rows = []

    def add(name: str, value: float, nominal: float | None, note: str) -> None:
        ratio = None if nominal is None else value / nominal
        rows.append({"name": name, "value": value, "unit": "", "baseline": nominal, "ratio": ratio, "note": note})

    for share in (0.0, 0.2, 0.5):
        for pairs, sets in ((10, 10), (12, 6), (20, 10)):
            note = f"type I, {pairs} pairs on {sets} sets, the set's share {share:g}"
            add("new test sets", error_of_new(rng, DRAWS, pairs, sets, share), ALPHA, note)
        note = f"type I, 12 pairs on 6 sets, the set's share {share:g}: what is not claimed"
        add("every pair counted", error_of_pairs(rng, DRAWS, 12, 6, share), ALPHA, note)
    for share in (0.2, 0.5):
        note = (
            f"type I, 10 pairs on 10 sets, share {share:g}, sets correlated .3: not held, and can't be: what all sets "
        )
        add("correlated sets", error_of_new(rng, DRAWS, 10, 10, share, 0.3), ALPHA, f"{note}share looks like an effect")
    for n in (3, 6, 10):
        mean, one = coverage(rng, DRAWS, n)
        add("t interval", mean, 0.95, f"coverage of the mean at n = {n}")
        add("prediction interval", one, 0.95, f"coverage of one further draw at n = {n}")
        add("equivalence", error_of_equivalence(rng, DRAWS, n), ALPHA, f"error at the margin, n = {n}")
    for name, sample in (("normal", rng.normal), ("Laplace", rng.laplace), ("Cauchy", rng.standard_cauchy)):
        add("e-process", error_of_looking(rng, 10 * DRAWS, sample), ALPHA, f"type I in {LOOKS} looks, {name}")
    add("confidence sequence", sequence_misses(rng, DRAWS // 10), ALPHA, f"ever misses the truth in {LOOKS} looks")
    for effect, fixed in ((0.5, 34), (1.0, 10), (2.0, 6)):
        n, share = sequential_n(rng, DRAWS, effect)
        note = (
            f"median replicates to find {effect:g} sd; baseline: the fixed n of power .8; found in {LOOKS}: {share:.2f}"
        )
        add("sequential n", n, fixed, note)
    return rows

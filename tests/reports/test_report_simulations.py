"""The simulations of tests/bench/statistics.py, few draws of each: errors lie in the binomial interval of nominal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.bench import statistics as sim


def at_most(nominal: float, draws: int) -> float:
    """Above it an honest rate comes once in some thousand times."""
    return nominal + 3.1 * math.sqrt(nominal * (1 - nominal) / draws)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_a_claim_about_new_test_sets_errs_no_more_than_it_says(share: float) -> None:
    rng = np.random.default_rng(int(10 * share))
    assert sim.error_of_new(rng, 300, 12, 6, share) <= at_most(0.05, 300)


def test_counting_every_pair_would_err() -> None:
    assert sim.error_of_pairs(np.random.default_rng(1), 300, 12, 2, 0.5) > at_most(0.05, 300)


@pytest.mark.parametrize("n", [3, 10])
def test_intervals_cover_and_equivalence_errs_as_they_say(n: int) -> None:
    rng, draws = np.random.default_rng(n), 1000
    assert min(sim.coverage(rng, draws, n)) >= 1 - at_most(0.05, draws)
    assert sim.error_of_equivalence(rng, draws, n) <= at_most(0.05, draws)


def test_looking_is_free_and_finds_an_effect_nearly_as_soon() -> None:
    rng = np.random.default_rng(3)
    assert sim.error_of_looking(rng, 2000, rng.standard_cauchy) <= at_most(0.05, 2000)
    assert sim.sequence_misses(rng, 40) <= at_most(0.05, 40)
    n, share = sim.sequential_n(rng, 500, 1.0)
    assert n <= 13
    assert share > 0.95

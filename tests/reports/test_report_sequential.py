"""The e-process: a fair bet, never wrong too often however often one looks, and intervals that hold all the time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from reports import sequential as s
from reports.statistics import replicates_needed


def test_the_bet_is_fair_under_every_pattern_of_signs() -> None:
    """Given the sizes, E_n has the mean 1 over all sign patterns: that is what makes looking free."""
    sizes = np.array([0.5, 3.0, 0.1, 1.0, 2.0])
    finals = [s.e_values(np.array(signs) * sizes) for signs in itertools.product((-1, 1), repeat=len(sizes))]
    np.testing.assert_allclose(np.mean(finals, axis=0), 1)


def test_e_values_by_hand() -> None:
    """The first difference is its own scale: each capital bets tanh(d sqrt(1 + d^2)), and one of two signs wins it."""
    bets = [math.tanh(d * math.sqrt(1 + d * d)) for d in s.EFFECTS]
    assert s.e_values(np.array([7.0])) == pytest.approx([np.mean([1 + b for b in bets] + [1 - b for b in bets])])
    assert s.e_values(np.array([7.0, 7.0]))[1] == pytest.approx(
        np.mean([(1 + b) ** 2 for b in bets] + [(1 - b) ** 2 for b in bets])
    )


def test_scale_sign_and_zeros_do_not_matter() -> None:
    d = np.random.default_rng(1).normal(0.5, 1, size=9)
    np.testing.assert_allclose(s.e_values(100 * d), s.e_values(d))
    np.testing.assert_allclose(s.e_values(-d), s.e_values(d))
    assert s.e_values(np.zeros(4)).tolist() == [1.0] * 4
    assert s.anytime_p(np.zeros(4)) == 1.0
    assert math.isnan(s.anytime_p(np.array([])))


def test_p_never_rises_as_differences_come() -> None:
    d = np.random.default_rng(2).normal(0.8, 1, size=25)
    p = [s.anytime_p(d[:n]) for n in range(1, 26)]
    assert p == sorted(p, reverse=True)
    assert p[-1] < 0.05


def test_fewest_is_about_what_the_exact_test_needs() -> None:
    assert s.fewest(0.05) == replicates_needed(0.05) == 6
    assert s.fewest(0.025) == 7
    assert s.anytime_p(np.ones(5)) > 0.05 >= s.anytime_p(np.ones(6))
    with pytest.raises(ValueError, match="alpha=1"):
        s.fewest(1)


def test_the_confidence_sequence_is_what_the_test_does_not_reject() -> None:
    d = np.random.default_rng(3).normal(1, 1, size=12)
    low, high = s.confidence_sequence(d)
    assert low < np.median(d) < high
    assert s.anytime_p(d - (low - 0.1)) <= 0.05
    assert s.anytime_p(d - (high + 0.1)) <= 0.05
    assert s.anytime_p(d - np.median(d)) > 0.05
    assert s.confidence_sequence(d[:5]) == (-math.inf, math.inf)
    moved = s.confidence_sequence(d + 5)
    assert moved == pytest.approx((low + 5, high + 5), abs=0.05)


def test_looking_thirty_times_errs_no_more_than_promised() -> None:
    draws, generator = 2000, np.random.default_rng(4)
    for sample in (generator.normal, generator.laplace, lambda size: generator.standard_t(2, size=size)):
        d_GR = sample(size=(draws, 30))
        ever = (s.e_values(d_GR).max(1) >= 20).mean()
        assert ever <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / draws)


def test_an_effect_of_one_deviation_is_found_soon() -> None:
    d_GR = np.random.default_rng(5).normal(1, 1, size=(1000, 40))
    reached = s.e_values(d_GR) >= 20
    assert reached.any(1).mean() > 0.97
    assert np.median(reached.argmax(1) + 1) <= 13  # ten would be fixed in advance for power .8

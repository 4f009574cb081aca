"""Statistics against numbers worked out by hand, against scipy, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from reports import statistics as s


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_mean_sd_divides_by_n_minus_one() -> None:
    assert s.mean_sd([1, 2, 3, 4]) == (2.5, pytest.approx(math.sqrt(5 / 3)))


def test_mean_sd_of_one_value_has_no_deviation_and_of_none_no_mean() -> None:
    mean, sd = s.mean_sd([7.0])
    assert mean == 7.0
    assert math.isnan(sd)
    assert all(map(math.isnan, s.mean_sd([])))


def test_paired_differences_keep_common_replicates_in_their_order() -> None:
    arm = {(1, 0): 5.0, (0, 1): 3.0, (9, 9): 100.0}
    baseline = {(0, 1): 1.0, (1, 0): 4.0, (2, 0): 50.0}
    assert s.paired_differences(arm, baseline) == {(0, 1): 2.0, (1, 0): 1.0}
    many = {(seed, fold): float(seed) for seed in range(9, -1, -1) for fold in (3, 1)}
    assert list(s.paired_differences(many, dict.fromkeys(many, 0.0))) == sorted(many)


# ------------------------------------------------------------------------------------------------ intervals
def test_the_t_interval_is_scipys() -> None:
    d = np.array([0.3, -0.2, 1.1, 0.8, 0.4, 2.0])
    assert s.t_interval(d) == pytest.approx(tuple(stats.ttest_1samp(d, 0).confidence_interval(0.95)))
    assert s.t_interval(d, 0.9) == pytest.approx(tuple(stats.ttest_1samp(d, 0).confidence_interval(0.9)))


def test_the_prediction_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s 1; t of two degrees of freedom 4.3027, times sqrt(1 + 1/3)."""
    assert s.prediction_interval(np.array([1.0, 2, 3])) == pytest.approx((2 - 4.9683, 2 + 4.9683), abs=1e-4)


def test_intervals_at_their_edges() -> None:
    for interval in (s.t_interval, s.prediction_interval):
        assert all(map(math.isnan, interval(np.array([1.0]))))
        assert all(map(math.isnan, interval(np.array([]))))
        assert interval(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0)


@pytest.mark.parametrize("n", [3, 10])
def test_intervals_cover_as_often_as_promised(n: int) -> None:
    rows = rng(n).normal(1, 2, size=(3000, n + 1))
    for interval, truth in ((s.t_interval, np.ones(3000)), (s.prediction_interval, rows[:, -1])):
        found = np.array([interval(row[:-1]) for row in rows])
        hits = ((found[:, 0] <= truth) & (truth <= found[:, 1])).mean()
        assert hits == pytest.approx(0.95, abs=3.5 * math.sqrt(0.05 * 0.95 / 3000))


# ------------------------------------------------------------------------------------------------ margins
def test_beyond_a_margin_is_two_one_sided_t_tests() -> None:
    d = np.array([0.3, -0.2, 0.1, 0.4, -0.4])
    worse = stats.ttest_1samp(d, -0.5, alternative="greater").pvalue
    better = stats.ttest_1samp(d, 0.5, alternative="less").pvalue
    assert s.beyond_margin_p(d, 0.5) == pytest.approx((worse, better))


def test_equivalence_is_statsmodels() -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats", reason="statsmodels is not installed")
    d = rng(3).normal(0.1, 0.5, size=12)
    p, _, _ = weightstats.DescrStatsW(d).ttost_mean(-0.7, 0.7)
    assert max(s.beyond_margin_p(d, 0.7)) == pytest.approx(p)


def test_margins_at_their_edges() -> None:
    assert s.beyond_margin_p(np.zeros(3), 1) == (0, 0)
    assert s.beyond_margin_p(np.full(3, 2.0), 1) == (0, 1)
    assert all(map(math.isnan, s.beyond_margin_p(np.array([1.0]), 1)))


# ------------------------------------------------------------------------------------------------ sign flips
def flips_by_hand(d: np.ndarray) -> float:
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=len(d))]
    return float(np.mean(np.array(sums) >= abs(d.sum()) - 1e-9))


@pytest.mark.parametrize("d", [[1, 2, 3], [1, 2, -3], [0.5, -0.1, 0.9, 0.7], [1, 1, 1, -1, 1], [0, 0, 1, 2]])
def test_sign_flip_p_enumerates_all_patterns(d: list[float]) -> None:
    assert s.sign_flip_p(np.array(d, dtype=float), rng()) == pytest.approx(flips_by_hand(np.array(d)))


def test_sign_flip_p_at_its_edges() -> None:
    assert math.isnan(s.sign_flip_p(np.array([]), rng()))
    assert s.sign_flip_p(np.array([3.0]), rng()) == 1.0
    assert s.sign_flip_p(np.zeros(4), rng()) == 1.0
    assert s.sign_flip_p(np.array([1.0, 2.0, 3.0]), rng()) == 0.25


def test_sign_flip_p_is_exact_up_to_16_pairs_and_drawn_beyond() -> None:
    d = rng(5).normal(0.3, 1, size=17)
    assert s.sign_flip_p(d[:16], rng(1)) == s.sign_flip_p(d[:16], rng(2))
    one, other = s.sign_flip_p(d, rng(1)), s.sign_flip_p(d, rng(2))
    assert one != other
    assert one == pytest.approx(other, abs=0.01)


@pytest.mark.parametrize(("n", "reachable"), [(6, 2 / 64), (10, 50 / 1024)])
def test_type_one_error_is_what_the_test_promises(n: int, reachable: float) -> None:
    """Under the null p is uniform over its 2^n / 2 steps: P(p <= .05) is the greatest step under .05."""
    draws, generator = 250, rng(11)
    rate = np.mean([s.sign_flip_p(generator.normal(size=n), generator) <= 0.05 for _ in range(draws)])
    assert rate == pytest.approx(reachable, abs=3.5 * math.sqrt(reachable * (1 - reachable) / draws))


def test_three_pairs_never_reach_significance() -> None:
    generator = rng(4)
    found = [s.sign_flip_p(generator.normal(50, 1, size=3), generator) for _ in range(50)]
    assert min(found) == s.smallest_p(3) == 0.25


def test_smallest_p_and_the_replicates_it_asks_for() -> None:
    assert [s.smallest_p(n) for n in (0, 1, 3, 5, 6)] == [1, 1, 0.25, 0.0625, 0.03125]
    assert s.replicates_needed(0.05) == 6
    assert s.replicates_needed(0.05 / 7) == 9  # 2/2^8 = .0078 > .0071 > 2/2^9
    with pytest.raises(ValueError, match="alpha=0"):
        s.replicates_needed(0)


# ------------------------------------------------------------------------------------------------ power
def test_replicates_for_effect_are_the_textbooks() -> None:
    assert s.replicates_for_effect(0.5, 1) == 34  # Cohen: d = .5, two-sided .05, power .8
    assert s.replicates_for_effect(-1, 2) == 34  # only |difference| / sd counts
    assert s.replicates_for_effect(1, 1) == 10
    assert s.replicates_for_effect(100, 1) == s.replicates_for_effect(1, 0) == 6  # the exact test needs six anyway


def test_replicates_for_effect_find_it_as_often_as_promised() -> None:
    n = s.replicates_for_effect(0.8, 1, power=0.8)
    found = stats.ttest_1samp(rng(2).normal(0.8, 1, size=(4000, n)), 0, axis=1).pvalue <= 0.05
    assert 0.78 < found.mean() < 0.86


def test_replicates_for_a_tiny_effect_is_finite_and_for_none_an_error() -> None:
    assert s.replicates_for_effect(0.01, 1) == pytest.approx(7.849 / 0.01**2, rel=1e-3)  # (1.960 + 0.842)^2
    with pytest.raises(ValueError, match="difference=0"):
        s.replicates_for_effect(0, 1)


# ------------------------------------------------------------------------------------------------ Holm
def test_holm_by_hand() -> None:
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.5, 0.9]) == [1.0, 1.0]
    assert s.holm([]) == []


def test_holm_does_not_count_what_was_not_tested() -> None:
    adjusted = s.holm([0.01, math.nan, 0.04])
    assert math.isnan(adjusted[1])
    assert [adjusted[0], adjusted[2]] == pytest.approx([0.02, 0.04])


def test_holm_is_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = rng(9).uniform(size=25) ** 3
    assert s.holm(list(p)) == pytest.approx(multitest.multipletests(p, method="holm")[1])


# ------------------------------------------------------------------------------------------------ pooled
def test_pooled_by_hand_when_pairs_agree() -> None:
    """Means 2 and 4; variance within (2 + 8) / 2 = 5, noise 5 * 1/2 = 2.5 > var(means) = 2: no spread between."""
    found = s.pooled([np.array([1.0, 3.0]), np.array([2.0, 6.0])])
    assert (found.mean, found.pairs, found.replicates) == (3.0, 2, 4)
    assert found.sd_within == pytest.approx(math.sqrt(5))
    assert found.sd_between == 0.0
    assert found.high - found.mean == pytest.approx(12.7062 * math.sqrt(2.5 / 2), rel=1e-4)


def test_pooled_by_hand_when_pairs_differ() -> None:
    """Means 1 and 5: var(means) = 8, noise 2 * 1/2 = 1, so the true differences spread with variance 7."""
    found = s.pooled([np.array([0.0, 2.0]), np.array([4.0, 6.0])])
    assert found.sd_between == pytest.approx(math.sqrt(7))
    assert found.mean - found.low == pytest.approx(12.7062 * math.sqrt(8 / 2), rel=1e-4)


def test_pooled_weighs_pairs_and_not_replicates() -> None:
    assert s.pooled([np.zeros(10), np.array([1.0, 1.0])]).mean == 0.5


def test_pooled_of_one_pair_is_its_t_interval() -> None:
    d = np.array([1.0, 2.0, 6.0])
    found = s.pooled([d, np.array([])])
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert math.isnan(found.sd_between)
    assert math.isnan(s.pooled([np.array([1.0])]).low)


def test_pooled_interval_covers_the_truth_as_often_as_promised() -> None:
    """Five pairs whose true differences spread (sd 1) around 2, four noisy replicates each."""
    generator, hits = rng(6), 0
    for _ in range(600):
        groups = [generator.normal(generator.normal(2, 1), 1.5, size=4) for _ in range(5)]
        found = s.pooled(groups)
        hits += found.low <= 2 <= found.high
    assert 0.92 < hits / 600 < 0.985


def test_heterogeneity_is_the_one_way_anova() -> None:
    groups = [rng(k).normal(k, 1.5, size=3 + k) for k in range(4)]
    found, anova = s.pooled(groups), stats.f_oneway(*groups)
    assert found.p_heterogeneity == pytest.approx(anova.pvalue)
    assert found.i_squared == pytest.approx(max(0, 1 - 1 / anova.statistic))
    assert math.isnan(s.pooled([np.array([1.0]), np.array([2.0])]).p_heterogeneity)

"""How sure we may be: pure functions on paired differences, each small enough to check by hand.

R: replicates, or units of another kind (test sets). A difference is one replicate's (arm minus baseline), both trained
on the same fold and seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

Key = TypeVar("Key", bound=tuple[int, ...])
Floats = npt.NDArray[np.float64]

ALPHA = 0.05
PATTERNS = 99_999  # sign patterns: all 2^R of them while they are no more than this (R = 16), else so many are drawn


def mean_sd(values: Sequence[float] | Floats) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof 1). No value: (nan, nan); one value: (value, nan)."""
    x = np.asarray(values, dtype=np.float64)
    return (float(x.mean()) if x.size else math.nan, float(x.std(ddof=1)) if x.size > 1 else math.nan)


def paired_differences(arm: Mapping[Key, float], baseline: Mapping[Key, float]) -> dict[Key, float]:
    """arm - baseline over the replicates that both have, in the order of their keys."""
    return {key: arm[key] - baseline[key] for key in sorted(arm.keys() & baseline.keys())}


def t_interval(values_R: Floats, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean. R < 2: (nan, nan); all equal: that value twice."""
    return _around(values_R, level, 1 / max(values_R.size, 1))


def prediction_interval(values_R: Floats, level: float = 0.95) -> tuple[float, float]:
    """Where one further draw of the same distribution lies: mean +- t_(R-1) s sqrt(1 + 1/R). R < 2: (nan, nan)."""
    return _around(values_R, level, 1 + 1 / max(values_R.size, 1))


def _around(values_R: Floats, level: float, share: float) -> tuple[float, float]:
    """mean +- t s sqrt(share)."""
    mean, sd = mean_sd(values_R)
    half = _t_half(sd * math.sqrt(share), values_R.size - 1, level) if values_R.size > 1 else math.nan
    return mean - half, mean + half


def sign_flip_p(differences_R: Floats, rng: np.random.Generator) -> float:
    """Two-sided p of the paired permutation test: under the null each difference is as likely to have the other sign.

    Exact (all 2^R patterns) up to R = 16, then from 99,999 drawn patterns. R = 0: nan. R = 1: 1.
    """
    if differences_R.size < 2:
        return 1.0 if differences_R.size else math.nan
    result = stats.permutation_test(
        (differences_R,),
        np.mean,
        permutation_type="samples",
        n_resamples=PATTERNS,
        rng=rng,
    )
    return float(result.pvalue)


def beyond_margin_p(differences_R: Floats, margin: float) -> tuple[float, float]:
    """One-sided p of t-tests of "worse than -margin" and of "better than margin": (no worse, no better).

    Both at most alpha: equivalent within the margin (two one-sided tests, Schuirmann 1987); the first alone: no worse
    by more than the margin. Without any deviation 0, or 1 at or beyond the margin. R < 2: (nan, nan).
    """
    if differences_R.size < 2:
        return math.nan, math.nan
    mean, sd = mean_sd(differences_R)
    room = np.array([mean + margin, margin - mean])
    if sd == 0:
        return float(room[0] <= 0), float(room[1] <= 0)
    found = stats.t.sf(room / (sd / math.sqrt(differences_R.size)), differences_R.size - 1)
    return float(found[0]), float(found[1])


def smallest_p(n: int) -> float:
    """The smallest two-sided p that an exact sign-flip test on n pairs can give: 2 / 2^n, at most 1."""
    return min(1.0, 2.0 / 2.0**n)


def replicates_needed(alpha: float = ALPHA) -> int:
    """The fewest pairs with which the exact test can reach alpha at all; for m comparisons (Holm) ask for alpha / m."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}: expected a number in (0, 1)")
    return next(n for n in range(1, 1100) if smallest_p(n) <= alpha)


def replicates_for_effect(difference: float, sd: float, *, power: float = 0.8, alpha: float = ALPHA) -> int:
    """The fewest pairs with which a paired t-test finds `difference` with probability `power`.

    sd: deviation of the paired differences. Exact power (noncentral t), never fewer than `replicates_needed(alpha)`.
    Raises ValueError for a difference of 0, which no number of replicates finds.
    """
    if difference == 0 or not math.isfinite(difference) or not sd >= 0:
        raise ValueError(f"difference={difference!r}, sd={sd!r}: expected a difference other than 0 and sd >= 0")
    fewest = replicates_needed(alpha)
    if sd == 0:
        return fewest
    effect = abs(difference) / sd
    guess = ((stats.norm.isf(alpha / 2) + stats.norm.ppf(power)) / effect) ** 2  # the normal approximation, too small
    n = max(fewest, math.floor(guess))
    while _paired_t_power(effect, n, alpha) < power:
        n += 1
    return n


def _paired_t_power(effect: float, n: int, alpha: float) -> float:
    if n > 1000:  # the noncentral t loses precision where the normal is as good
        return float(stats.norm.sf(stats.norm.isf(alpha / 2) - effect * math.sqrt(n)))
    critical = stats.t.isf(alpha / 2, n - 1)
    shift = effect * math.sqrt(n)
    return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p, in the order given; nan (no test was made) stays nan and is not counted."""
    adjusted = [math.nan] * len(p_values)
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    running = 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class Pooled:
    """A mean difference over pairs (data set, backbone), with its 95 % t interval.

    sd_between: of the pairs' true differences, the replicates' noise taken out; sd_within: of replicates in a pair.
    p_heterogeneity, i_squared: of Cochran's Q with the pooled sd_within; whether the pairs differ at all, and which
    share of their means' variance is due to it (Higgins and Thompson 2002).
    """

    mean: float
    low: float
    high: float
    pairs: int
    replicates: int
    sd_between: float
    sd_within: float
    p_heterogeneity: float = math.nan
    i_squared: float = math.nan


def pooled(differences: Sequence[Floats], *, level: float = 0.95) -> Pooled:
    """Two-level estimate, replicates within pairs: every pair weighs the same, however many replicates it has.

    With P pairs of R_p replicates: sd_within^2 is the pooled variance in a pair, noise = sd_within^2 * mean(1 / R_p),
    sd_between^2 = max(0, var(means) - noise) by the method of moments, and the standard error is
    sqrt((sd_between^2 + noise) / P), never less than the replicates' own noise; the interval is t with P - 1 degrees
    of freedom. One pair: the plain t interval over its replicates, which says nothing about other pairs.
    Where no spread can be estimated, the interval is nan.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in differences if len(group)]
    means = np.array([group.mean() for group in groups])
    freedom = sum(group.size - 1 for group in groups)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    within = math.sqrt(squares / freedom) if freedom else math.nan
    size = sum(group.size for group in groups)
    if len(groups) == 1:
        return Pooled(float(means[0]), *t_interval(groups[0], level), 1, size, math.nan, within)
    mean, sd = mean_sd(means)
    noise = within**2 * float(np.mean([1 / group.size for group in groups])) if freedom else 0.0
    half = _t_half(math.sqrt(max(sd**2, noise) / len(groups)), len(groups) - 1, level)
    between = math.sqrt(max(0.0, sd**2 - noise)) if freedom else math.nan
    spread = _heterogeneity(groups, means, within, freedom)
    return Pooled(mean, mean - half, mean + half, len(groups), size, between, within, *spread)


def _heterogeneity(groups: Sequence[Floats], means: Floats, within: float, freedom: int) -> tuple[float, float]:
    """(p, I^2) of Q = sum R_p (mean_p - weighted mean)^2 / sd_within^2. The variance is estimated, so p is F's."""
    if not freedom or not within > 0:
        return math.nan, math.nan
    sizes, others = np.array([group.size for group in groups]), len(groups) - 1
    q = float((sizes * (means - np.average(means, weights=sizes)) ** 2).sum()) / within**2
    return float(stats.f.sf(q / others, others, freedom)), max(0.0, 1 - others / q) if q > 0 else 0.0


def _t_half(error: float, freedom: int, level: float) -> float:
    """Half the width of a t interval; nan without a degree of freedom."""
    return float(stats.t.ppf(0.5 + level / 2, freedom)) * error if freedom else math.nan

"""Looking after every replicate: an e-process on paired differences, and the confidence sequence that it gives.

Under the null each difference is as likely to have the other sign, whatever its size. So a bet on the signs is fair: of
a capital of 1, the share b_i(|d_i|, what came before) is put on +; the capital E_n = prod(1 + b_i sign(d_i)) is then a
martingale, and P(E_n >= 1 / alpha for any n) <= alpha (Ville 1939; Ramdas, Grunwald, Vovk and Shafer, "Game-theoretic
statistics and safe anytime-valid inference", Statistical Science 38, 2023). Nothing is assumed of scale or shape but
symmetry. The bets: at an effect of delta standard deviations a Gaussian difference is positive with the odds
exp(2 delta |d| / sigma), so b = tanh(delta |d| / sigma); several capitals, of both signs and several deltas, are added.
"""

from __future__ import annotations

import math

import numpy as np

from reports.statistics import ALPHA, Floats

EFFECTS = (0.5, 1.0, 2.0, 4.0)  # of the capitals, in standard deviations; each once for either sign
MOST = 1 - 1e-12  # of a capital that is put on a sign: never all of it
POINTS = 801  # of the grid that a confidence sequence is read off


def e_values(differences_R: Floats) -> Floats:
    """E_1 ... E_R of the null "symmetric about 0", in the order in which the differences came. A zero is no bet.

    sigma is read off the sizes so far, this one included, which are known before the sign is. Of sequences: (..., R).
    """
    d_R = np.asarray(differences_R, dtype=np.float64)
    size_R = np.abs(d_R)
    scale_R = np.sqrt((size_R**2).cumsum(-1) / np.arange(1, d_R.shape[-1] + 1))
    relative_R = np.divide(size_R, scale_R, out=np.zeros_like(size_R), where=scale_R > 0)
    capital_R = np.zeros_like(d_R)
    for effect in EFFECTS:
        # The mean square of a difference is sigma^2 (1 + effect^2).
        odds_R = np.tanh(effect * math.sqrt(1 + effect**2) * relative_R).clip(max=MOST)
        bet_R = odds_R * np.sign(d_R)
        capital_R += np.exp(np.log1p(bet_R).cumsum(-1)) + np.exp(np.log1p(-bet_R).cumsum(-1))
    return capital_R / (2 * len(EFFECTS))


def anytime_p(differences_R: Floats) -> float:
    """1 / max E_n, at most 1: a p that stays valid whenever one looks and stops. No difference: nan."""
    if not len(differences_R):
        return math.nan
    return min(1.0, 1 / float(e_values(differences_R).max()))


def confidence_sequence(differences_R: Floats, level: float = 0.95) -> tuple[float, float]:
    """The centres that the e-process has never rejected, as an interval: it holds at all times at once.

    (-inf, inf) while there are fewer than `fewest(1 - level)` differences, and nothing can be excluded.
    """
    d_R = np.asarray(differences_R, dtype=np.float64)
    if len(d_R) < fewest(1 - level):
        return -math.inf, math.inf
    reach = max(float(np.ptp(d_R)), 1e-9)
    low, high = float(d_R.min()) - reach, float(d_R.max()) + reach
    centres_G = np.unique([*np.linspace(low, high, POINTS), float(np.median(d_R)), 0.0])
    kept_G = centres_G[e_values(d_R - centres_G[:, None]).max(1) < 1 / (1 - level)]
    if not len(kept_G):  # no centre is left: the differences are not symmetric about any
        return math.nan, math.nan
    step = (high - low) / (POINTS - 1)  # outwards by a step of the grid, so that rounding excludes nothing
    return float(kept_G[0]) - step, float(kept_G[-1]) + step


def fewest(alpha: float = ALPHA) -> int:
    """The fewest differences with which the e-process can reach 1 / alpha: all of one sign and size."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}: expected a number in (0, 1)")
    found = e_values(np.ones(200))
    return int(np.argmax(found >= 1 / alpha)) + 1

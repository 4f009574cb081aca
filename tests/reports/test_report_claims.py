"""Claims, primary contrasts, factorial effects and the matrix, of records made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from laresa.config import SUBSETS
from reports import comparison_tables, comparisons, effects, matrix
from reports.claims import FIXED, SEQUENTIAL, SETS, Design, by_test_set
from reports.formats import to_markdown
from reports.select import to_blocks
from reports.sequential import anytime_p
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import FULL, column, context, found_against_base, record

NAMED = Design(contrasts=((FULL, "ce"), (FULL, f"{FULL}, shuffled labels")))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def gains(arm: str, points: list[float], folds: list[int] | None = None, **config: Any) -> list[TrialRecord]:
    """ce at 50 % and the arm so many points above it, a seed a number, on a test set for each fold."""
    folds = folds if folds is not None else list(range(len(points)))
    sets = [{"test_fingerprint": f"set {fold}"} for fold in folds]
    return [
        trial
        for seed, (gain, fold, known) in enumerate(zip(points, folds, sets, strict=True))
        for trial in (
            record("ce", 0.5, seed=seed, fold=fold, provenance=known),
            record(arm, 0.5 + gain / 100, seed=seed, fold=fold, provenance=known, **config),
        )
    ]


# ---------------------------------------------------------------------------------------------------- two claims
def test_ten_test_sets_speak_of_new_ones() -> None:
    _, (found,) = found_against_base(gains("ce+reg", [1, 2, 3, -1, 2, 1, 0.5, 2, 1, 1.5]))
    assert (found.n, found.new.n, found.about_new) == (10, 10, True)
    assert (found.main.low, found.main.high) == pytest.approx(
        tuple(stats.ttest_1samp(found.main.units, 0).confidence_interval(0.95))
    )
    assert found.where == "10 test sets"


def test_replicates_of_one_test_set_count_once() -> None:
    """Twelve pairs on six sets: the sets' means are 1 and 2 in turn, so p is that of six signs, not of twelve."""
    points = [0.5, 1.5, 1.5, 2.5] * 3
    _, (found,) = found_against_base(gains("ce+reg", points, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]))
    assert found.main.units.tolist() == pytest.approx([1, 2] * 3)
    assert (found.these.p, found.new.p) == (2 / 2**12, 2 / 2**6)
    assert (found.n, found.new.n, found.p_holm) == (12, 6, 2 / 2**6)


def test_five_test_sets_speak_of_these_alone() -> None:
    made, (found,) = found_against_base(gains("ce+reg", [1.0, 2, 1, 2, 1, 2, 1, 2, 1, 2], [0, 1, 2, 3, 4] * 2))
    assert SETS == 6
    assert (found.about_new, found.main.n, found.new.n) == (False, 10, 5)
    assert found.where == "10 pairs on these 5 test sets"
    table = comparison_tables.baseline_table(made, [found])
    assert table is not None
    assert column(table, "p, new sets") == ["–"]
    assert column(table, "p (Holm)") == ["0.002* (these sets)"]


def test_test_sets_that_share_images_count_as_one() -> None:
    trials = gains("ce+reg", [1.0] * 7)
    _, (apart,) = found_against_base(trials)
    _, (shared,) = found_against_base(trials, Design(same={"set 3": "set 0", "set 6": "set 0"}))
    assert (apart.new.n, shared.new.n) == (7, 5)


def test_what_was_looked_at_in_between_may_not_change() -> None:
    points, sets = {(0, 0): 1.0, (1, 1): 2.0, (2, 0): 9.0}, {(0, 0): "a", (1, 1): "b", (2, 0): "a"}
    assert by_test_set(points, sets) == [5.0, 2.0]
    assert by_test_set(points, sets, SEQUENTIAL) == [1.0, 2.0]


def test_a_sequential_design_has_a_p_that_one_may_look_at() -> None:
    order = ((3, 3), (0, 0), (1, 1), (2, 2), (4, 4), (5, 5), (6, 6))
    _, (found,) = found_against_base(
        gains("ce+reg", [1.0, 2, 3, 4, 5, 6, 7]), Design(kind=SEQUENTIAL, replicates=order)
    )
    assert found.these.units.tolist() == pytest.approx([4, 1, 2, 3, 5, 6, 7])
    assert found.main.p == anytime_p(found.main.units)
    assert found.main.low > 0


# ---------------------------------------------------------------------------------------------------- contrasts
def three_arms(shuffled: float) -> list[TrialRecord]:
    points = [2.0, 3, 1, 2, 3, 1, 2]
    full = gains(FULL, points)
    control = [
        t
        for t in gains(f"{FULL}, shuffled labels", [shuffled * p for p in points], shuffle_labels=True)
        if t.arm != "ce"
    ]
    weak = [t for t in gains("ce+reg", [1.0] * 7) if t.arm != "ce"]
    return full + control + weak


def test_holm_counts_the_primary_contrasts_alone() -> None:
    blocks = to_blocks(three_arms(0.5))
    first = comparisons.primary(blocks, NAMED, rng())
    assert [(c.arm, c.against, c.p_holm) for c in first] == [
        (FULL, "ce", 4 / 2**7),
        (FULL, f"{FULL}, shuffled labels", 4 / 2**7),
    ]
    against = {c.arm: c for c in comparisons.against_baseline(blocks, NAMED, rng(), first)}
    assert against[FULL] is first[0]
    assert [against[arm].p_holm for arm in against if arm != FULL] == [4 / 2**7] * 2
    assert [c.arm for c in against.values() if c.significant] == [FULL]
    (variant,) = comparisons.variants(blocks, NAMED, rng(), first)
    assert (variant.arm, variant.mean, variant.primary) == (f"{FULL}, shuffled labels", pytest.approx(-1), True)
    assert (variant.main.low, variant.main.high) == (-first[1].main.high, -first[1].main.low)


def test_rows_that_nobody_named_are_marked_exploratory() -> None:
    made = context(three_arms(1.0))
    first = comparisons.primary(made.blocks, NAMED, rng())
    table = comparison_tables.baseline_table(made, comparisons.against_baseline(made.blocks, NAMED, rng(), first))
    assert table is not None
    assert dict(zip(column(table, "arm"), column(table, "p (Holm)"), strict=True)) == {
        FULL: "0.031*",
        f"{FULL}, shuffled labels": "0.031 expl.",
        "ce+reg": "0.031 expl.",
    }
    assert column(comparison_tables.primary_table(made, first), "within ±1") == ["no worse", "equivalent"]
    assert comparison_tables.primary_table(made, []) is None


def test_a_contrast_without_trials_is_said() -> None:
    blocks = to_blocks(gains("ce+reg", [1.0, 2]))
    assert comparisons.primary(blocks, NAMED, rng()) == []
    (sentence,) = comparisons.not_compared(blocks, Design(contrasts=(("ce+reg", "ce"), ("gone", "ce"))))
    assert sentence == "Primary contrast gone against ce: there are no trials of both, so nothing was compared."


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([0.1, -0.1] * 3, "equivalent"),
        ([5.0, -5, 1] * 2, "–"),
        ([3.0, 4] * 3, "no worse"),
        ([-3.0, -4] * 3, "no better"),
    ],
)
def test_what_a_margin_allows_to_say(points: list[float], said: str) -> None:
    made, found = found_against_base(gains("ce+reg", points))
    assert column(comparison_tables.baseline_table(made, found), "within ±1") == [said]


def test_a_margin_may_be_looked_at_only_by_the_confidence_sequence() -> None:
    points = [0.3, -0.3, 0.9, -0.8, 0.4, -0.4]
    said = []
    for kind in (FIXED, SEQUENTIAL):
        made, found = found_against_base(gains("ce+reg", points), Design(kind=kind))
        said += column(comparison_tables.baseline_table(made, found), "within ±1")
    assert said == ["equivalent", "–"]


# ---------------------------------------------------------------------------------------------------- effects
def crossed(score: Any, seeds: int = 6, arms: tuple[str, ...] = SUBSETS) -> list[TrialRecord]:
    """Every subset on every seed, each on a test set of its own."""
    return [
        record(arm, score(set(arm.split("+")), s), seed=s, fold=s, provenance={"test_fingerprint": f"set {s}"})
        for s in range(seeds)
        for arm in arms
    ]


def test_effects_are_what_was_put_in() -> None:
    """anchor 2 points, reg -1, and anchor with triplet 4 more: seen as 1 beside each effect, and as an interaction."""

    def score(terms: set[str], seed: int) -> float:
        both = {"anchor", "triplet"} <= terms
        return 0.5 + 0.01 * seed + 0.02 * ("anchor" in terms) - 0.01 * ("reg" in terms) + 0.04 * both

    blocks = to_blocks(crossed(score))
    found = {e.terms: e.main.mean for e in effects.effects(blocks, Design(), rng())}
    assert found == pytest.approx(
        {
            ("anchor",): 4,
            ("triplet",): 2,
            ("reg",): -1,
            ("anchor", "triplet"): 2,
            ("anchor", "reg"): 0,
            ("triplet", "reg"): 0,
            ("anchor", "triplet", "reg"): 0,
        },
        abs=1e-9,
    )


def test_effects_have_less_noise_than_a_pair_of_arms() -> None:
    noise = np.random.default_rng(2)
    trials = crossed(lambda terms, seed: 0.5 + 0.01 * noise.normal(), seeds=40)
    blocks = to_blocks(trials)
    (pair,) = [c for c in comparisons.against_baseline(blocks, Design(), rng()) if c.arm == "ce+reg"]
    (effect,) = [e for e in effects.effects(blocks, Design(), rng()) if e.terms == ("reg",)]
    assert effect.main.sd == pytest.approx(pair.main.sd / 2, rel=0.35)  # four differences in place of one


def test_no_factorial_no_effects() -> None:
    assert effects.effects(to_blocks(crossed(lambda *_: 0.5, arms=SUBSETS[:-1])), Design(), rng()) == []
    assert effects.effects(to_blocks(crossed(lambda *_: 0.5, arms=("ce", "ce+reg"))), Design(), rng()) == []
    assert effects.effects(to_blocks(crossed(lambda *_: 0.5, arms=("ce", "hace"))), Design(), rng()) == []
    made = context(crossed(lambda *_: 0.5))
    table = effects.effects_table(made, effects.effects(made.blocks, Design(), rng()))
    assert table is not None
    assert column(table, "effect of")[-1] == "anchor × triplet × reg"
    assert column(table, "p (Holm)") == ["1.000"] * 7
    assert "nan" not in to_markdown(table)


# ---------------------------------------------------------------------------------------------------- the matrix
def test_every_arm_against_every_other_over_the_blocks() -> None:
    scores = {"a": (0.5, 0.6), "b": (0.5, 0.7), "c": (0.5, 0.4)}
    trials = [
        record(arm, value, dataset=name)
        for name, pair in scores.items()
        for arm, value in zip(("ce", "ce+reg"), pair, strict=True)
    ]
    table = matrix.matrix_table(context(trials), rng())
    assert table is not None
    assert column(table, "arm") == ["ce+reg", "ce"]
    assert column(table, "over ce") == ["+6.7 (2/1), p 0.750", ""]
    assert column(table, "over ce+reg") == ["", "−6.7 (1/2), p 0.750"]
    assert matrix.matrix_table(context(trials[:2]), rng()) is None
    assert math.isnan(matrix.gain(to_blocks(trials)[0], "ce", "gone"))

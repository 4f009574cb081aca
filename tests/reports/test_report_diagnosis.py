"""Diagnosis of hand-made trials: what is flagged, what is said of an arm that harms, the order of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from laresa.measurement import RANK_COLLAPSE, Measurement
from reports import appendix, comparisons, diagnosis, figures, tables
from reports.claims import Design
from reports.formats import to_csv, to_markdown
from reports.select import to_blocks
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import FULL, column, context, record


def trials(
    arm: str,
    top1: float,
    *,
    rank: float = 13.0,
    share: float = 0.12,
    step: float = -1.0,
    curves: Mapping[str, list[float]] | None = None,
) -> list[TrialRecord]:
    """Eight of an arm, each on a test set of its own, a hundredth apart."""
    names = {f"gradient/{part}": [0.2] * 3 for part in ("ce", "anchor", "variance")} | dict(curves or {})
    length = max(map(len, names.values()))
    history = tuple(
        Measurement(n + 1, {name: values[n] for name, values in names.items() if n < len(values)}, 1.0)
        for n in range(length)
    )
    metrics = {"test/effective_rank": rank, "test/rank_share": share, "collapse_step": step}
    return [
        record(arm, top1 + 0.01 * (s % 2), seed=s, fold=s, metrics=metrics, history=history if arm != "ce" else ())
        for s in range(8)
    ]


def said(*arms: list[TrialRecord]) -> list[str]:
    blocks = to_blocks([*trials("ce", 0.5), *(trial for arm in arms for trial in arm)])
    return diagnosis.harm(blocks, comparisons.against_baseline(blocks, Design(), np.random.default_rng(0)))


def test_an_arm_whose_latents_collapsed_is_told_by_its_rank_and_who_pulled() -> None:
    loud = {"gradient/variance": [0.9, 0.8, 0.85], "gradient/anchor": [0.05, 0.1, 0.1], "gradient/ce": [0.05] * 3}
    assert said(trials(FULL, 0.1, rank=3.0, share=0.025, curves=loud)) == [
        f"{FULL} is 40.0 points below ce: its latents collapsed to an effective rank of 3.0 (ce: 13.0); variance makes "
        "85 % of what pulls at them."
    ]


def test_an_arm_whose_weights_collapsed_is_told_by_the_step() -> None:
    assert said(trials("ce+anchor", 0.4, step=200.0)) == [
        "ce+anchor is 10.0 points below ce: the weight of its base term fell under 0.05, at step 200 in the median."
    ]


def test_an_arm_that_one_term_pulls_is_told_by_it() -> None:
    (sentence,) = said(trials("ce+anchor", 0.4, curves={"gradient/anchor": [0.7, 0.7, 0.7]}))
    assert "anchor makes 70 % of what pulls at its latents, whose rank and weights did not collapse" in sentence


def test_what_nothing_explains_is_said_so() -> None:
    assert "nothing that was watched says why" in said(trials("ce+anchor", 0.4))[0]


def test_no_arm_is_below() -> None:
    assert said(trials("ce+anchor", 0.6)) == ["No arm is below ce beyond chance."]
    assert said() == []


def test_the_flag_stands_beside_the_dagger() -> None:
    made = context(
        [
            *trials("ce", 0.5),
            *trials(FULL, 0.1, share=RANK_COLLAPSE - 0.001, step=4.0),
            *trials("ce+reg", 0.4, share=RANK_COLLAPSE),
        ]
    )
    table = tables.top1_table(made)
    assert dict(zip(column(table, "arm"), column(table, "collapsed"), strict=True)) == {
        "ce": "0",
        FULL: "†8 ¶8",
        "ce+reg": "0",
    }
    assert to_csv(table).splitlines()[2].endswith(",8,8,8,8,8")


PAPER = {
    "weight/ce": [0.2, 0.1, 0.05, 0.01],
    "weight/variance": [0.2, 0.1, 0.02, 0.0],
    "weight/anchor": [0.2, 0.5, 0.1, 0.0],
    "weight/triplet": [0.2, 0.2, 0.6, 0.04],
    "weight/center": [0.2, 0.1, 0.23, 0.95],
    "beta/coarse": [0.5, 0.7, 0.4, 0.1],
    "beta/fine": [0.5, 0.3, 0.6, 0.9],
}


def test_the_papers_order_is_recognised_and_its_reverse_is_not() -> None:
    backwards = {name: values[::-1] for name, values in PAPER.items()}
    made = context([*trials("ce", 0.5), *trials(FULL, 0.5, curves=PAPER), *trials("ce+reg", 0.5, curves=backwards)])
    table = diagnosis.order_table(made)
    assert table is not None
    assert column(table, "arm") == [FULL, "ce+reg"]
    assert column(table, "agrees") == ["yes", "0 of 4"]
    assert column(table, "anchor peaks before triplet") == ["8/8", "0/8"]
    assert diagnosis.order_table(context(trials("ce", 0.5))) is None


def test_what_an_arm_lacks_has_no_entry() -> None:
    some = {name: PAPER[name] for name in ("weight/ce", "weight/anchor", "beta/coarse", "beta/fine")}
    table = diagnosis.order_table(context([*trials("ce", 0.5), *trials("ce+anchor", 0.5, curves=some)]))
    assert table is not None
    assert [cell.text for cell in table.blocks[0].rows[0]] == ["ce+anchor", "–", "–", "–", "8/8", "yes"]


def test_figures_of_rank_and_gradients_have_a_panel_an_arm_that_was_watched() -> None:
    watched = {"latent/effective_rank": [10.0, 5.0, 3.0]}
    (block,) = to_blocks([*trials("ce", 0.5), *trials(FULL, 0.5, curves=watched)])
    rank = diagnosis.rank_figure(block)
    pull = diagnosis.gradients_figure(block, figures.gradient_looks([block]))
    assert rank is not None
    assert pull is not None
    assert [len(drawing.figure.axes) for drawing in (rank, pull)] == [1, 1]
    (alone,) = to_blocks(trials("ce", 0.5))
    assert diagnosis.rank_figure(alone) is None
    assert diagnosis.gradients_figure(alone, {}) is None
    assert figures.learned_looks([block]) == {}  # a share is no learned tensor


# ---------------------------------------------------------------------------------------------------- the appendix
def test_the_appendix_tells_each_arms_settings_choice_and_cost() -> None:
    tuned = [record("ce+reg", 0.6, seed=s, lr=0.02, provenance={"chosen": "finished"}) for s in (0, 1)]
    asked = [record("ce+reg", 0.5, seed=0, lr=lr, provenance={"role": "search"}) for lr in (0.02, 0.5)]
    made = context([record("ce", 0.5, seed=s) for s in (0, 1)] + tuned)
    table = appendix.appendix_table(made, asked, {"lr": "FloatDistribution(high=0.1, log=True, low=0.001)"})
    assert column(table, "own settings") == ["subset ce, lr 0.001", "subset ce+reg, lr 0.02"]
    assert column(table, "chosen by") == ["given", "search (finished)"]
    assert column(table, "search trials") == ["0", "2"]
    text = to_markdown(table)
    assert "Searched, where an arm has them: lr in FloatDistribution" in text
    assert "batch\\_size 128" in text or "batch_size 128" in text
    assert "variance.input raw" in text.split("The same in all arms that have it")[1]

"""Which trials count, and how they are grouped."""

from __future__ import annotations

import math

import pytest

from laresa.errors import DataError
from laresa.measurement import Measurement
from reports.select import BEST_VALIDATION, budget, collapse_step, to_blocks
from tests.reports.handmade import FULL, read, record


def test_no_records_is_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="no trial records"):
        to_blocks([])


def test_arms_come_in_the_studys_order_then_as_they_came() -> None:
    labels = [f"{FULL}, zeta", FULL, "ce+reg", f"{FULL}, alpha", "ce"]
    trials = [record(label) for label in labels]
    (block,) = to_blocks(trials, order=("ce+reg", "ce+anchor", "ce", FULL))
    assert [arm.label for arm in block.arms] == ["ce+reg", "ce", FULL, f"{FULL}, zeta", f"{FULL}, alpha"]
    (block,) = to_blocks(trials)
    assert [arm.label for arm in block.arms] == ["ce", *labels[:-1]]


@pytest.mark.parametrize(
    ("subsets", "order", "baseline"),
    [
        (("hace", "ce", "ce+reg"), ("ce+reg", "hace", "ce"), "hace"),  # the study's first base term alone
        (("hace", "ce"), (), "ce"),
        (("own_base", "hxe", "own_base+unheard"), (), "hxe"),
        (("hace", "ce+reg"), ("ce", "ce+reg"), "hace"),  # ce has not started yet
        (("ce+reg", "ce+anchor"), ("ce+reg", "ce+anchor"), None),
    ],
)
def test_the_baseline_is_a_base_term_alone(
    subsets: tuple[str, ...], order: tuple[str, ...], baseline: str | None
) -> None:
    (block,) = to_blocks([read(subset, 0.5) for subset in subsets], order=order)
    assert block.baseline == baseline


def test_blocks_are_data_set_and_backbone() -> None:
    found = to_blocks([record(), record(backbone="resnet50"), record(dataset="cifar100")])
    assert [block.title for block in found] == [
        "emoji120, test_resnet",
        "emoji120, resnet50",
        "cifar100, test_resnet",
    ]


def test_trials_that_did_not_finish_are_counted_and_never_measured() -> None:
    states = ("failed", "pruned", "interrupted", "running")
    others = [record("ce", 0.9, seed=seed, state=state) for seed, state in enumerate(states, start=1)]
    mute = [record("ce", None, seed=7), record("ce", math.nan, seed=8), record("ce", math.inf, seed=9)]
    ((arm,),) = (block.arms for block in to_blocks([record("ce", 0.5), *others, *mute]))
    assert (arm.n_ok, arm.n_total) == (1, 8)
    assert arm.values("test/top1") == {(0, 0): 0.5}


def test_of_several_trials_of_a_replicate_validation_chooses_and_not_test() -> None:
    worse_on_test = record("ce", 0.4, lr=1e-3, metrics={"best/val/top1": 0.9})
    better_on_test = record("ce", 0.8, lr=1e-2, metrics={"best/val/top1": 0.7})
    unvalidated = record("ce", 0.99, lr=1e-1, metrics={"best/val/top1": math.nan})
    ((arm,),) = (block.arms for block in to_blocks([unvalidated, better_on_test, worse_on_test]))
    assert arm.values("test/top1") == {(0, 0): 0.4}
    assert (arm.n_ok, len(arm.chosen)) == (3, 1)


def test_a_tie_on_validation_does_not_depend_on_the_order() -> None:
    trials = [record("ce", 0.5, lr=lr) for lr in (1e-3, 1e-2, 1e-1)]
    assert BEST_VALIDATION.choose(trials) == BEST_VALIDATION.choose(trials[::-1])


def test_seed_and_fold_make_the_replicate() -> None:
    ((arm,),) = (b.arms for b in to_blocks([record(seed=s, fold=f) for s in (1, 0) for f in (0, 1)]))
    assert list(arm.chosen) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_collapse_step_is_none_if_it_never_came() -> None:
    assert collapse_step(record()) is None
    assert collapse_step(record(metrics={"collapse_step": -1.0})) is None
    assert collapse_step(record(metrics={"collapse_step": 0.0})) == 0


def test_budget_counts_every_trial() -> None:
    history = (Measurement(1, {}, 3.0), Measurement(2, {}, 4.0))
    spent = budget([record(history=history), record("ce", None, seed=1, state="failed", history=history)])
    assert (spent.trials, spent.epochs, spent.seconds) == (2, 4, 2.0 + 7.0)
    assert spent.text == "2 trials, 4 epochs, 9 s of training in total"

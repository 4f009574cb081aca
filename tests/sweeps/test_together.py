"""Which of a source's trials one worker gets at a time, and which of a group's are stopped early."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laresa.config import TrialConfig
from laresa.measurement import Measurement
from laresa.methods import AT_ONCE, group_key
from sweeps.service.search.groups import FEWEST, Grouped, described, in_groups, split, why_alone
from sweeps.service.search.sources import FixedPlan
from sweeps.service.study import PlannedTrial, Replicate, Search
from sweeps.service.worker.halving import Halving, rungs

HEADS = TrialConfig(method="heads", backbone="tf_efficientnet_lite0", subset="ce")
ARMS = ("ce", "ce+anchor", "ce+triplet")


def plan(folds: int, seeds: int) -> list[PlannedTrial]:
    return [
        PlannedTrial(arm, HEADS.replace(subset=arm, fold=fold, seed=seed))
        for seed in range(seeds)
        for fold in range(folds)
        for arm in ARMS
    ]


def search(arm: str, scheduler: str = "none", **fields: Any) -> Search:
    return Search(arm, HEADS.replace(subset=arm, **fields), {}, 6, Replicate(0, 5), scheduler=scheduler)


def test_trials_share_a_group_by_data_features_and_batch_size_and_not_by_terms():
    same = (HEADS, HEADS.replace(subset="ce+anchor", lr=0.5, seed=3, weighting="uncertainty", epochs=7))
    others = [HEADS.replace(**fields) for fields in ({"fold": 1}, {"batch_size": 64}, {"heads.l2_normalise": True})]
    assert len({group_key(config) for config in same}) == 1
    assert len({group_key(config) for config in (HEADS, *others)}) == 4
    assert group_key(TrialConfig()) is None


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 12))
def test_every_trial_is_in_one_group_of_one_key(folds: int, seeds: int, places: int):
    trials = plan(1, 1) * seeds
    by_key = [[PlannedTrial(t.arm, t.config, code=f"{fold}") for t in trials] for fold in range(folds)]
    groups = list(split(by_key, places))
    assert Counter(len({trial.code for trial in group}) for group in groups) == {1: len(groups)}
    assert sum(map(len, groups)) == folds * len(trials)
    assert all(1 <= len(group) <= AT_ONCE for group in groups)
    assert all(len(group) >= min(FEWEST, len(trials)) for group in groups if len(groups) > folds)
    for group in groups:  # arms are not scattered
        arms = [trial.arm for trial in group]
        assert arms == sorted(arms)


def test_enough_groups_for_the_workers_where_there_are_trials_for_it():
    assert len(list(split([plan(1, 8)], 3))) == 3
    assert len(list(split([plan(1, 8)], 1))) == 1
    assert len(list(split([plan(1, 2)], 5))) == 1  # six are too few to part
    assert len(list(split([plan(1, 8), plan(1, 8)], 2))) == 2


def test_a_plan_comes_in_groups_and_what_trains_alone_alone():
    alone = [PlannedTrial("net", TrialConfig(seed=seed)) for seed in range(2)]
    source = in_groups(FixedPlan([*alone, *plan(2, 3)]), 2)
    assert (source.known, source.finished) == (True, False)
    found = []
    while (group := source.next()) is not None:
        found.append(group)
    assert [len(group.trials) for group in found] == [9, 9, 1, 1]
    assert source.finished


class Asked:
    """In place of searches: hands out trials, and remembers who was told before each was asked."""

    known = False

    def __init__(self, trials: list[PlannedTrial]) -> None:
        self.left, self.told, self.asked_after = deque(trials), 0, list[int]()

    @property
    def finished(self) -> bool:
        return not self.left

    def next(self) -> Any:
        from sweeps.service.study import Group

        if not self.left:
            return None
        self.asked_after.append(self.told)
        return Group((self.left.popleft(),))

    def concluded(self, trial: PlannedTrial, outcome: Any) -> None:
        self.told += 1


def test_searches_are_asked_in_rounds_that_hear_of_the_one_before():
    searches = [search(arm, "asha") for arm in ARMS]
    asked = Asked([PlannedTrial(t.arm, t.config, "search") for t in plan(1, 6)])
    source = in_groups(asked, 1, searches)
    sizes = []
    while (group := source.next()) is not None:
        assert group.halving
        sizes.append(len(group.trials))
        for trial in group.trials:
            assert source.next() is None  # nothing is asked while a round trains
            source.concluded(trial, {})
    assert sizes == [6, 6, 6]  # a third of each of three searches
    assert asked.asked_after == [0] * 6 + [6] * 6 + [12] * 6


def test_who_trains_alone_and_why():
    assert why_alone(search("ce", "asha")) is why_alone(search("ce")) is None
    assert why_alone(search("ce", "median")).startswith("--scheduler median stops trials one by one")
    assert why_alone(Search("ce", TrialConfig(), {}, 6, Replicate(0, 5))) == "method end_to_end trains one at a time"
    source = Asked([])
    assert in_groups(source, 2, [search("ce", "median")]) is source
    assert isinstance(in_groups(source, 2, [search("ce", "median"), search("ce+anchor")]), Grouped)


# ---------------------------------------------------------------------- successive halving
def history(*values: float) -> list[Measurement]:
    return [Measurement(epoch, {"val/top1": value}, 0.1, 0) for epoch, value in enumerate(values, 1)]


@pytest.mark.parametrize(("epochs", "expected"), [(27, (3, 9)), (9, (1, 3)), (1, ()), (3, (1,)), (30, (3, 9, 27))])
def test_rungs(epochs: int, expected: tuple[int, ...]):
    assert rungs(epochs) == expected


def test_the_best_third_of_each_arm_goes_on():
    rule = Halving(["a"] * 6 + ["b"], [9] * 7)
    first = [history(value) for value in (0.1, 0.6, 0.3, 0.5, 0.2, 0.4, 0.0)]
    assert rule.stopped(first, range(7)) == [0, 2, 4, 5]
    assert rule.stopped(first, [1, 3, 6]) == []  # asked again within the same rung
    later = [
        history(row[0].metrics["val/top1"], 0.0, 0.1 * i) if i in (1, 3, 6) else row for i, row in enumerate(first)
    ]
    assert rule.stopped(later, [1, 3, 6]) == [1]  # of the two that are left of arm a


def test_who_comes_later_is_compared_with_those_before():
    rule = Halving(["a"] * 4, [9] * 4)
    assert rule.stopped([history(0.5), history(0.4), [], []], [0, 1]) == [1]
    assert rule.stopped([history(0.5), history(0.4), history(0.6), []], [0, 2]) == []
    assert rule.stopped([history(0.5), history(0.4), history(0.6), history(0.55)], [0, 2, 3]) == [3]


def test_of_equals_none_is_stopped():
    assert Halving(["a"] * 3, [9] * 3).stopped([history(0.5)] * 3, range(3)) == []


def test_a_plan_says_what_trains_together_and_why_the_rest_does_not():
    alone = [PlannedTrial("ce", TrialConfig(seed=seed)) for seed in range(3)]
    assert described(alone, []) == []
    assert described(plan(folds=2, seeds=2), []) == [
        "together: 12 trials in 2 groups, split where more workers are free"
    ]
    assert described([*plan(1, 1), *alone], [search("ce"), search("ce+anchor", "hyperband")]) == [
        "together: 3 trials in 1 group, split where more workers are free",
        "alone: 3 trials, whose method trains one at a time",
        "together: the trials of each search (1), in 3 rounds",
        "alone: the trials of search ce+anchor: --scheduler hyperband stops trials one by one; none and asha work in "
        "groups",
    ]

"""Studies, plans and the options that make them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from laresa.config import SUBSETS, TrialConfig
from laresa.errors import ConfigError
from sweeps import ablation, search
from sweeps.service.planning.plan import check_plan, plan, write_plan
from sweeps.service.storage.files import SweepFolder, write_json
from sweeps.service.study import Cell, Replicate, Study


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    return parser.parse_args(arguments)


def test_ablation_is_eight_subsets_control_and_remedy_on_three_paired_replicates():
    study = ablation.build(options())
    assert [cell.arm for cell in study.cells] == [
        *SUBSETS,
        "ce+anchor+triplet+reg, shuffled labels",
        "ce+anchor+triplet+reg, ce_outside weights",
    ]
    assert study.replicates == (Replicate(0, 0), Replicate(1, 1), Replicate(2, 2))
    trials = study.trials()
    assert len({trial.signature for trial in trials}) == 30
    assert [trial.config.seed for trial in trials] == [0] * 10 + [1] * 10 + [2] * 10  # pairs are whole early
    control, remedy = study.cells[8].config, study.cells[9].config
    assert control.replace(shuffle_labels=False) == study.cells[7].config
    assert remedy.weighting == "ce_outside"
    assert remedy.alpha_init == (1.0,) * 4


def test_options_reach_every_arm():
    study = ablation.build(
        options("--subsets", "ce,reg+ce", "--seeds", "3,9", "--folds", "1,0", "--epochs", "7", "--set", "lr=0.25")
    )
    assert [cell.arm for cell in study.cells] == ["ce", "ce+reg"]
    assert {(t.config.epochs, t.config.lr) for t in study.trials()} == {(7, 0.25)}
    assert study.replicates == (Replicate(3, 1), Replicate(9, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0,0"], r"replicate \(seed, fold\) given more than once"),
        (["--seeds", "a"], r"--seeds 'a': expected whole numbers"),
        (["--folds", "0"], r"expected 3 folds, one for each of --seeds 0,1,2"),
        (["--seeds", "0", "--folds", "6"], r"'emoji120' has folds 0 to 5"),
        (["--set", "lr"], r"expected FIELD=VALUE"),
        (["--set", "learning_rate=1"], r"unknown field 'learning_rate'"),
        (["--set", "lr=-1"], r"lr=-1.0: expected a number > 0"),
        (["--subsets", "ce,ce"], r"arm given more than once: ce"),
        (["--subsets", "ce,ce+ancor"], r"did you mean 'anchor'"),
        (["--dataset", "emoji12"], r"emoji120"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ablation.build(options(*arguments))


def test_two_arms_of_one_configuration_are_refused():
    cells = (Cell("a", TrialConfig(subset="ce")), Cell("b", TrialConfig(subset="ce", margin=3)))
    with pytest.raises(ConfigError, match="'a' and 'b' are the same configuration"):
        Study("s", cells, (Replicate(0, 0),))


def test_plan_tells_what_is_left(tmp_path: Path):
    study = ablation.build(options("--subsets", "ce,ce+reg,ce+anchor,ce+triplet,ce+triplet+reg", "--seeds", "0"))
    finished, failed, delivered, resumed, new = study.trials()
    folder = SweepFolder(tmp_path)
    folder.trial(resumed.signature).new_attempt().checkpoint(3).touch()
    attempt = folder.trial(delivered.signature).new_attempt()
    write_json(attempt.trial.root / "outcome.json", {"state": "finished"})
    rows = plan(study, folder, {finished.signature: "finished", failed.signature: "failed", new.signature: "running"})
    assert [row.state for row in rows] == ["finished", "failed", "deliver", "resume", "new"]
    assert [row.done for row in rows] == [True, True, True, False, False]

    def cached(left):
        assert list(left) == [resumed, new]  # only what would be trained is looked for
        return {new.signature}

    tracked = {finished.signature: "finished", failed.signature: "failed"}
    rows = plan(study, folder, tracked, cached)
    assert [row.state for row in rows] == ["finished", "failed", "deliver", "resume", "cached"]
    assert [row.done for row in rows] == [True, True, True, False, True]


def searching(*arguments: str) -> Study:
    parser = argparse.ArgumentParser()
    search.add_options(parser)
    return search.build(parser.parse_args(arguments))


def test_a_sweep_is_continued_and_extended(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    write_plan(ablation.build(options("--subsets", "ce", "--seeds", "0")), folder)
    check_plan(ablation.build(options("--subsets", "ce", "--seeds", "0")), folder)
    wider = ablation.build(options("--subsets", "ce,ce+reg", "--seeds", "0,1,2"))  # another arm, more seeds
    check_plan(wider, folder)
    write_plan(wider, folder)
    with pytest.raises(
        ConfigError, match=r"holds 'ce\+reg' with lr=0\.004, this command has 0\.1: give the same options"
    ):
        check_plan(ablation.build(options("--subsets", "ce+reg", "--set", "lr=0.1")), folder)
    check_plan(ablation.build(options("--subsets", "ce", "--seeds", "0")), folder)  # a part of it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--sampler", "random"], "sampler='tpe', this command has 'random'"),
        (["--scheduler", "median"], "scheduler='asha', this command has 'median'"),
        (["--space", "lr=1e-4:1e-1:log"], "with space="),
        (["--search-seed", "1"], "seed=0, this command has 1"),
        (["--objective", "val/top1,val/nn_hit"], "objectives=['val/top1'], this command has"),
    ],
)
def test_a_search_takes_more_trials_and_no_other_rules(change: list[str], words: str, tmp_path: Path):
    folder = SweepFolder(tmp_path)
    write_plan(searching("--trials", "5"), folder)
    check_plan(searching("--trials", "50"), folder)
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_plan(searching("--trials", "5", *change), folder)

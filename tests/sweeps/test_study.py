"""Studies, plans and the options that make them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from laresa.config import SUBSETS, TrialConfig
from laresa.errors import ConfigError
from sweeps import ablation, search
from sweeps.ablation import FULL
from sweeps.service.planning.plan import check_plan, plan, write_plan
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.state import write_state
from sweeps.service.study import Cell, Choice, Replicate, Study


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    return parser.parse_args(arguments)


def test_ablation_is_eight_subsets_and_variants_of_the_full_one_on_three_paired_replicates():
    study = ablation.build(options("--tune", "0"))
    assert study.searches == ()
    assert "given settings, not tuned; `--tune N`" in ablation.settings(study)
    assert [cell.arm for cell in study.cells] == [
        *SUBSETS,
        "ce+anchor+triplet+reg, shuffled labels",
        "ce+anchor+triplet+reg, equal weights",
        "ce+anchor+triplet+reg, unit reading",
    ]
    assert study.contrasts == ((FULL, "ce"), (FULL, f"{FULL}, shuffled labels"))
    assert study.replicates == (Replicate(0, 0), Replicate(1, 1), Replicate(2, 2))
    trials = study.trials()
    assert len({trial.signature for trial in trials}) == 33
    assert [trial.config.seed for trial in trials] == [0] * 11 + [1] * 11 + [2] * 11  # pairs are whole early
    full, control, equal, unit = (cell.config for cell in study.cells[7:])
    assert control.replace(shuffle_labels=False) == full
    assert equal.weighting == "fixed"
    assert (full["variance.input"], unit["variance.input"], unit["variance.reduction"]) == ("raw", "unit", "mean")


def test_the_other_reading_stands_beside_the_chosen_one():
    study = ablation.build(options("--tune", "0", "--reading", "unit"))
    assert study.cells[-1].arm == f"{FULL}, literal reading"
    literal = ablation.build(options("--tune", "0")).cells[7].config
    assert study.cells[-1].config == literal
    assert {cell.config["center.input"] for cell in study.cells if "reg" in cell.arm} == {"unit", "raw"}
    given = ablation.build(options("--tune", "0", "--set", "variance.reduction=sample"))
    assert {c.config["variance.reduction"] for c in given.cells if "reg" in c.arm} == {"sample"}
    fixed = ablation.build(options("--tune", "0", "--set", "weighting=fixed"))
    assert f"{FULL}, equal weights" not in [cell.arm for cell in fixed.cells]


@pytest.mark.parametrize(
    ("arguments", "contrasts"),
    [
        (["--subsets", "ce,ce+reg"], ()),  # without the full arm
        (["--subsets", f"ce,{FULL}"], ((FULL, "ce"),)),
        (["--primary", "ce+reg:ce", "--primary", "ce+reg:ce+anchor"], (("ce+reg", "ce"), ("ce+reg", "ce+anchor"))),
        (["--primary", "none"], ()),
    ],
)
def test_primary_contrasts_are_the_study_s_own_unless_named(arguments, contrasts):
    assert ablation.build(options(*arguments)).contrasts == contrasts


def test_until_decided_takes_new_test_sets_first():
    study = ablation.build(options("--until", "decided", "--seeds", "0,5,1,2,3,6,4,7", "--tune", "0"))
    assert study.sequential
    assert [replicate.seed for replicate in study.replicates] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert len(ablation.build(options("--until", "decided", "--tune", "0")).replicates) == 30


def test_bare_ablation_tunes_every_arm_on_one_budget_and_on_data_that_no_replicate_is_tested_on():
    study = ablation.build(options("--seeds", "0,4,5"))
    assert [search.name for search in study.searches] == [cell.arm for cell in study.cells]
    assert {search.epochs for search in study.searches} == {ablation.TUNE * 18}
    assert f"{ablation.TUNE} x 18 = {ablation.TUNE * 18} epochs" in ablation.settings(study)
    assert study.replicates == (Replicate(0, 0), Replicate(4, 4), Replicate(5, 0))
    assert {search.replicate for search in study.searches} == {Replicate(0, 5, exchanged=True)}
    judged = study.searches[0].replicate.of(study.cells[0].config)
    assert (judged.seed, judged.fold, judged.exchange_splits) == (0, 5, True)
    assert all(search.first == (search.base,) for search in study.searches)  # the given settings are asked first
    spaces = {search.name: sorted(search.space) for search in study.searches}
    assert spaces["ce"] == ["lr"]
    assert "variance.input" not in spaces["ce+reg"]  # a reading makes an arm what it is
    assert spaces["ce+anchor"] == ["alpha_init.anchor", "alpha_init.ce", "lr"]
    assert {"triplet.margin", "alpha_init.variance"} <= set(spaces["ce+triplet+reg"])
    assert "alpha_init.ce" not in spaces[f"{FULL}, equal weights"]
    chosen = Choice(study.searches[0].replicate.of(study.cells[0].config.replace(lr=0.5)), "pruned")
    first, second = study.chosen({"ce": chosen}).trials()[:2]
    assert (first.config.lr, first.config.fold, first.config.exchange_splits, first.chosen) == (0.5, 0, None, "pruned")
    assert second.chosen is None


def test_a_fixed_test_set_is_tuned_on_its_validation_part():
    tuned = ablation.build(options("--dataset", "cifar100", "--epochs", "2"))
    assert {replicate.fold for replicate in tuned.replicates} == {0}
    assert tuned.searches[0].replicate == Replicate(0, 0)
    given = ablation.build(options("--dataset", "cifar100", "--epochs", "2", "--tune", "0"))
    assert [replicate.fold for replicate in given.replicates] == [0, 0, 0]  # on the same half
    swapped = ablation.build(options("--dataset", "cifar100", "--folds", "0,1,0", "--tune", "0"))
    assert [replicate.fold for replicate in swapped.replicates] == [0, 1, 0]


def test_the_fold_that_is_kept_for_tuning_is_open_to_given_settings_only():
    arguments = ["--seeds", "0", "--folds", "5"]
    assert ablation.build(options(*arguments, "--tune", "0")).replicates == (Replicate(0, 5),)
    with pytest.raises(ConfigError, match=r"judged on what fold 5 tests.*expected folds below 5, or --tune 0"):
        ablation.build(options(*arguments))
    with pytest.raises(ConfigError, match=r"judged on what fold 1 tests.*expected folds below 1"):
        ablation.build(options("--dataset", "cifar100", "--seeds", "0", "--folds", "1"))


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
        (["--set", "lr=-1"], r"lr=-1: expected greater than 0"),
        (["--tune", "-1"], r"--tune -1: expected trials for each arm, or 0"),
        (
            ["--tune", "0", "--space", "lr"],
            r"--space lr with --tune 0: nothing is searched; expected --tune N, or --set",
        ),
        (["--set", "exchange_splits=true"], r"--set exchange_splits: it is the searches' own"),
        (["--subsets", "ce,ce"], r"arm given more than once: ce"),
        (["--primary", "ce+rag:ce"], r"--primary ce\+rag:ce: no arm 'ce\+rag'; did you mean 'ce\+reg'"),
        (["--primary", "ce"], r"--primary 'ce': expected ARM:AGAINST"),
        (["--primary", "ce:ce"], r"--primary ce:ce: expected two different arms"),
        (["--margin", "0"], r"--margin 0: expected points of top-1, more than 0"),
        (["--subsets", "ce,ce+ancor"], r"did you mean 'anchor'"),
        (["--dataset", "emoji12"], r"emoji120"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ablation.build(options(*arguments))


def test_two_arms_of_one_configuration_are_refused():
    cells = (Cell("a", TrialConfig(subset="ce")), Cell("b", TrialConfig(subset="ce", margin=3.0)))
    with pytest.raises(ConfigError, match="'a' and 'b' are the same configuration"):
        Study("s", cells, (Replicate(0, 0),))


def test_plan_tells_what_is_left(tmp_path: Path):
    study = ablation.build(options("--subsets", "ce,ce+reg,ce+anchor,ce+triplet,ce+triplet+reg", "--seeds", "0"))
    finished, failed, delivered, resumed, new = study.trials()
    folder = SweepFolder(tmp_path)
    folder.trial(resumed.key).new_attempt().checkpoint(3).touch()
    attempt = folder.trial(delivered.key).new_attempt()
    write_state(attempt.trial.root / "outcome.json", {"state": "finished"})
    rows = plan(study, folder, {finished.key: "finished", failed.key: "failed", new.key: "running"})
    assert [row.state for row in rows] == ["finished", "failed", "deliver", "resume", "new"]
    assert [row.done for row in rows] == [True, True, True, False, False]

    def cached(left):
        assert list(left) == [resumed, new]  # only what would be trained is looked for
        return {new.signature}

    tracked = {finished.key: "finished", failed.key: "failed"}
    rows = plan(study, folder, tracked, cached)
    assert [row.state for row in rows] == ["finished", "failed", "deliver", "resume", "cached"]
    assert [row.done for row in rows] == [True, True, True, False, True]


def searching(*arguments: str) -> Study:
    parser = argparse.ArgumentParser()
    search.add_options(parser)
    return search.build(parser.parse_args(arguments))


def test_a_sweep_is_continued_and_extended(tmp_path: Path):
    folder = SweepFolder(tmp_path)

    def study(*arguments: str, tune: str = "0") -> Study:
        return ablation.build(options("--subsets", *arguments, "--tune", tune))

    write_plan(study("ce", "--seeds", "0"), folder)
    check_plan(study("ce", "--seeds", "0"), folder)
    wider = study("ce,ce+reg", "--seeds", "0,1,2")  # another arm, more seeds
    check_plan(wider, folder)
    write_plan(wider, folder)
    with pytest.raises(
        ConfigError, match=r"holds 'ce\+reg' with lr=0\.004, this command has 0\.1: give the same options"
    ):
        check_plan(study("ce+reg", "--set", "lr=0.1"), folder)
    check_plan(study("ce", "--seeds", "0"), folder)  # a part of it
    with pytest.raises(ConfigError, match=r"holds 'ce' as given, this command tunes it: give the same --tune"):
        check_plan(study("ce", "--seeds", "0", tune="4"), folder)


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

"""What a sweep fixes in advance, and what weakens its evidence: contrasts, looks, shared test images, other code."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from laresa.config import TrialConfig
from laresa.data.dataset import make_dataset
from laresa.errors import ConfigError
from laresa.taxonomy import Taxonomy
from sweeps import ablation, trials
from sweeps.cli.plan import evidence
from sweeps.cli.report import differences, marks_of
from sweeps.service.planning.plan import check_plan, write_plan
from sweeps.service.planning.prepare import shared_images
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Study
from sweeps.service.tracking.sweep import Sweep
from tests.reports.handmade import record
from tests.sweeps.conftest import laresa


def study(*arguments: str) -> Study:
    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    return ablation.build(parser.parse_args(["--tune", "0", *arguments]))


# ---------------------------------------------------------------------------------------------------- in advance
def test_contrasts_are_kept_with_the_plan_and_none_is_named_afterwards(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    first = study("--subsets", "ce,ce+reg", "--primary", "ce+reg:ce", "--seeds", "0,1")
    write_plan(first, folder)
    wider = study("--subsets", "ce,ce+reg,ce+anchor", "--primary", "ce+anchor:ce", "--seeds", "2")
    check_plan(wider, folder)  # of an arm that nobody has seen
    kept = write_plan(wider, folder)
    assert kept.contrasts == (("ce+reg", "ce"), ("ce+anchor", "ce"))
    assert kept.replicates == ((0, 0), (1, 1), (2, 2))
    late = study("--subsets", "ce,ce+reg,ce+anchor", "--primary", "ce+reg:ce+anchor")
    with pytest.raises(ConfigError, match=r"has trained 'ce\+reg' and 'ce\+anchor' without naming them a primary"):
        check_plan(late, folder)
    assert not write_plan(study("--subsets", "ce", "--primary", "none"), folder).sequential
    assert write_plan(
        study("--subsets", "ce,ce+reg", "--primary", "ce+reg:ce", "--until", "decided"), folder
    ).sequential


def test_plan_counts_as_the_report_will(tmp_path: Path):
    nowhere = f"sqlite:///{tmp_path / 'none.db'}"
    few = evidence(study("--seeds", "0,1,2"), nowhere)
    assert few[0] == "primary contrast: ce+anchor+triplet+reg against ce"
    assert few[2] == (
        "3 replicates on 3 distinct test sets speak of these test sets, n = 3 pairs; 6 distinct ones would speak of "
        "new ones"
    )
    assert "n = 3 can't show significance at 0.05 with Holm over 2 primary contrasts; at least 7" in few[3]
    five = evidence(study("--seeds", "0,1,2,3,4,5,6,7,8,9", "--primary", "none"), nowhere)
    assert "10 replicates on 5 distinct test sets speak of these test sets, n = 10 pairs" in five[0]
    assert "n = 10 can show significance at 0.05 with Holm over 10 arms against the first" in five[1]
    looked = evidence(study("--until", "decided"), nowhere)
    assert looked[-1] == "looked at after 7 replicates and each that follows, until all are decided"


# ---------------------------------------------------------------------------------------------------- test images
def fold(name: str, first: int, count: int = 4):
    images = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    part = (images, np.zeros(count, int))
    tree = Taxonomy.from_names(["a", "b"])
    return make_dataset("mine", tree, train=part, val=part, test=part, fold_note=name)


def test_folds_whose_test_sets_overlap_are_named_and_counted_as_one(caplog: pytest.LogCaptureFixture):
    apart, near, far, last = fold("fold 0", 0), fold("fold 1", 3), fold("fold 2", 20), fold("fold 3", 6)
    found = shared_images([apart, near, far, last, apart])
    assert len(set(found.values())) == 1
    assert set(found) == {apart.test_fingerprint, near.test_fingerprint, last.test_fingerprint}
    assert [r.getMessage().split(":")[1].split(";")[0] for r in caplog.records] == [
        " fold 0 and fold 1 share 1 images",
        " fold 1 and fold 3 share 1 images",
    ]
    assert shared_images([apart, far]) == shared_images([apart]) == {}


# ---------------------------------------------------------------------------------------------------- marks
def test_a_fixed_design_that_grew_after_a_look_is_marked():
    def sweep(looked, design="fixed"):
        return SimpleNamespace(looked_at=looked, design=design)

    known = [record("ce", 0.5, seed=seed) for seed in range(4)]
    assert marks_of(sweep(None), known) == []
    assert marks_of(sweep(tuple((s, 0) for s in range(4))), known) == []
    (mark,) = marks_of(sweep(((0, 0), (1, 0), (2, 0))), known)
    assert mark.startswith("Extended by 1 replicates to 4 after its report had been seen")
    assert marks_of(sweep(((0, 0),), "sequential"), known) == []


def test_sweeps_of_other_code_or_data_are_told():
    def of(sweep: str, **provenance: str):
        return replace(record("ce", 0.5, provenance=provenance), sweep=sweep)

    one, same = of("a", code="1", data_fingerprint="x"), of("b", code="1", data_fingerprint="x")
    assert differences([one, same, of("a", code="2")]) == []  # within one sweep it was accepted
    assert differences([one, of("b", code="2", data_fingerprint="x")]) == ["sweeps a, b have different code"]
    assert differences([one, of("b", code="1", data_fingerprint="y")]) == ["sweeps a, b have different images"]
    other = replace(same, config=TrialConfig(subset="ce", dataset="cifar100"))
    assert differences([one, replace(other, provenance={"code": "2", "data_fingerprint": "y"})]) == []


# ---------------------------------------------------------------------------------------------------- whole sweeps
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--primary", "none"], "--until decided: the study names no primary contrast"),
        (
            ["--primary", "ce+reg:ce", "--max-trials", "11"],
            "nothing can be decided with 5 replicates on 5 test sets; expected 6",
        ),
        (
            ["--primary", "ce+reg:ce", "--seeds", "0,1"],
            "nothing can be decided with 2 replicates on 2 test sets; expected 6",
        ),
    ],
)
def test_until_decided_is_refused_where_nothing_can_be(arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        study("--subsets", "ce,ce+reg", "--until", "decided", *arguments)


def test_until_decided_uses_each_test_set_once_where_they_are_enough():
    """A second replicate on a test set changes nothing of a claim about new ones."""
    few = study("--until", "decided", "--seeds", ",".join(map(str, range(20))))  # five test sets
    assert len(few.replicates) == 20
    many = study("--until", "decided", "--dataset", "icons158", "--seeds", ",".join(map(str, range(20))))
    assert [replicate.fold for replicate in many.replicates] == list(range(10))
    assert len(study("--until", "decided", "--dataset", "icons158", "--max-trials", "95").replicates) == 8


HEADS = [
    "--subsets",
    "ce,ce+anchor",
    "--features",
    "tf_efficientnet_lite0",
    "--epochs",
    "2",
    "--set",
    "train_fraction=0.3",
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_until_decided_adds_replicates_and_ends_with_its_budget(server: str, tmp_path: Path):
    """A margin that nothing keeps to and an effect of nothing: the budget ends it."""
    words = ["run", "ablation", "--sweep", "looks", "--tune", "0", *HEADS, "--until", "decided"]
    named = ["--primary", "ce+anchor:ce", "--max-trials", "15", "--margin", "0.001"]
    done = laresa(*words, *named, cwd=tmp_path)
    assert "looks: 6 replicates, undecided: ce+anchor against ce" in done.stdout
    assert "looks: 7 replicates, undecided: ce+anchor against ce" in done.stdout
    assert Sweep.open("looks").design == "sequential"
    assert Sweep.open("looks").contrasts == (("ce+anchor", "ce"),)
    assert sorted(r.config.fold for r in trials("looks", where={"arm": "ce"})) == [0, 0, 1, 1, 2, 3, 4]
    table = (tmp_path / "build" / "looks" / "tables" / "primary.md").read_text()
    assert "Interval: confidence sequence over the units of the claim. p: e-process" in table

    # by hand after a look, of a fixed design: marked; and from sweeps of other data: refused, then marked
    fixed = ["run", "ablation", "--tune", "0", *HEADS, "--primary", "ce+anchor:ce"]
    laresa(*fixed, "--sweep", "grown", "--seeds", "0,1", cwd=tmp_path)
    assert Sweep.open("grown").looked_at == ((0, 0), (1, 1))
    assert (
        "Extended by 1 replicates to 3" in laresa(*fixed, "--sweep", "grown", "--seeds", "0,1,2", cwd=tmp_path).stdout
    )
    assert "Extended by 1" in laresa("report", "looks", "grown", "--mixed", cwd=tmp_path).stdout

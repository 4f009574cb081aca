"""The study `hierarchy`, and any study in miniature."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from laresa.errors import ConfigError
from sweeps import hierarchy, trials
from sweeps.cli.main import build_parser, main
from sweeps.cli.studies import find_study
from sweeps.service.study import Replicate, Study
from tests.sweeps.conftest import laresa

ARMS = hierarchy.HIERARCHY_ARMS


def built(*words: str) -> tuple[argparse.Namespace, Study]:
    """What a command line says, and its study."""
    args = build_parser(["run", *words]).parse_args(["run", *words])
    return args, find_study(words[0]).build(args)


def test_its_arms_are_base_terms_with_cross_entropy_first_and_hace_last() -> None:
    assert {"ce", "hxe", "soft_label", "hace"} <= set(ARMS)
    assert (ARMS[0], ARMS[-1]) == ("ce", "hace")
    _, study = built("hierarchy", "--dataset", "cifar100", "--backbone", "resnet18")
    assert [cell.arm for cell in study.cells] == list(ARMS)
    assert [cell.config.subset for cell in study.cells] == list(ARMS)
    assert len({cell.config.replace(subset="ce") for cell in study.cells}) == 1, "arms differ in the loss alone"


def test_every_arm_searches_lr_and_its_own_fields_on_one_budget() -> None:
    _, study = built("hierarchy", "--dataset", "cifar100", "--backbone", "resnet18")
    assert [search.name for search in study.searches] == list(ARMS)
    assert {search.epochs for search in study.searches} == {12 * 450}
    assert {search.replicate for search in study.searches} == {Replicate(0, 0)}
    spaces = {search.name: search.space for search in study.searches}
    assert {name for space in spaces.values() for name in space if "." not in name} == {"lr"}
    assert all("lr" in space for space in spaces.values())
    assert {"hace.dilution", "hace.smoothing"} <= set(spaces["hace"])
    assert "hxe.alpha" in spaces["hxe"]
    assert "soft_label.beta" in spaces["soft_label"]
    assert len({str(space["lr"]) for space in spaces.values()}) == 1, "one range of lr for all"
    for arm, space in spaces.items():
        assert {name.partition(".")[0] for name in space} <= {"lr", arm}


def test_other_subsets_can_be_asked_for() -> None:
    words = ("hierarchy", "--dataset", "cifar100", "--backbone", "resnet18", "--subsets", "ce,hace,hace+anchor")
    _, study = built(*words, "--tune", "0")
    assert [cell.arm for cell in study.cells] == ["ce", "hace", "hace+anchor"]
    assert study.searches == ()
    with pytest.raises(ConfigError, match="did you mean 'hace'"):
        built("hierarchy", "--subsets", "hac")


def test_a_term_s_field_can_be_varied_and_is_not_searched_then() -> None:
    _, study = built("hierarchy", "--subsets", "ce,hace", "--vary", "hace.dilution=0.2,0.7")
    assert [cell.arm for cell in study.cells] == ["ce", "hace, dilution 0.2", "hace, dilution 0.7"]
    assert [cell.config.values("hace").get("dilution") for cell in study.cells] == [None, 0.2, 0.7]
    spaces = [search.space for search in study.searches]
    assert all("hace.dilution" not in space for space in spaces)
    assert "hace.smoothing" in spaces[1]


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("hace.dilution", "expected FIELD=V,V,... with values that differ"),
        ("hace.dilution=0.5,0.5", "expected FIELD=V,V,... with values that differ"),
        ("lr=0.1,0.2", "every arm has it, the baseline too; expected a term's field, else --set"),
        ("triplet.margin=0.1,0.2", "no arm has it; expected a field of ce, hace"),
        ("hace.dilution=0.5,7", "hace.dilution=7"),
        ("hace.dilutoin=0.5", "did you mean 'hace.dilution'"),
    ],
)
def test_what_can_t_be_varied_is_said(vary: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        built("hierarchy", "--subsets", "ce,hace", "--vary", vary)


@pytest.mark.parametrize("study", ["ablation", "search", "hierarchy"])
def test_a_study_in_miniature_is_the_same_study(study: str) -> None:
    args, tiny = built(study, "--scale", "tiny")
    _, full = built(study)
    assert tiny.name == f"{study}-emoji120-tiny"
    assert [cell.arm for cell in tiny.cells] == [cell.arm for cell in full.cells]
    assert [search.name for search in tiny.searches] == [search.name for search in full.searches]
    assert {search.base.epochs for search in tiny.searches} == {3}
    assert {cell.config.epochs for cell in tiny.cells} <= {3}
    assert {search.trials for search in tiny.searches} == {2 if full.cells else 4}
    assert len(tiny.replicates) == min(2, len(full.replicates))
    assert (args.dataset, args.backbone, args.recipe) == ("emoji120", "test_resnet", "default")


@pytest.mark.parametrize("at", [0, 2, 4])
def test_what_is_given_wins_over_the_miniature_wherever_it_stands(at: int) -> None:
    words = ["--epochs", "2", "--seeds", "5,6,7"]
    args, study = built("hierarchy", *words[:at], "--scale", "tiny", *words[at:])
    assert (args.epochs, args.seeds) == (2, "5,6,7")
    assert [replicate.seed for replicate in study.replicates] == [5, 6, 7]
    assert study.searches[0].epochs == 2 * 2
    args, study = built("hierarchy", "--scale=tiny", "--tune", "0", "--sweep", "mine", "--set", "lr=0.5")
    assert (study.name, study.searches) == ("mine", ())
    assert {cell.config.lr for cell in study.cells} == {0.5}


def test_one_parser_reads_a_full_study_after_a_tiny_one() -> None:
    parser = build_parser(["run", "hierarchy"])
    assert parser.parse_args(["run", "hierarchy", "--scale", "tiny"]).epochs == 3
    full = parser.parse_args(["run", "hierarchy"])
    assert (full.epochs, full.tune, full.scale, full.seeds) == (None, 12, "full", "0,1,2")


@pytest.mark.parametrize("words", [["--scale"], ["--scale", "small"]])
def test_another_scale_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        built("hierarchy", *words)
    assert "--scale" in capsys.readouterr().err


@pytest.mark.parametrize("study", ["ablation", "search", "hierarchy"])
def test_a_miniature_is_planned(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LARESA_HOME", str(tmp_path))
    assert main(["plan", study, "--scale", "tiny", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    arms = {"ablation": 11, "search": 0, "hierarchy": len(ARMS)}[study]
    assert len(rows) == 2 * arms
    assert {row["state"] for row in rows} <= {"new"}
    assert main(["plan", study, "--scale", "tiny"]) == 0
    out = capsys.readouterr().out
    assert f"{study}-emoji120-tiny: recipe default: channels_last=True" in out
    assert "given otherwise: backbone=test_resnet, epochs=3" in out
    assert list(tmp_path.iterdir()) == [], "a plan writes nothing"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("server", "one_thread")
def test_hierarchy_in_miniature_from_nothing_to_report(tmp_path: Path) -> None:
    words = ["hierarchy", "--scale", "tiny", "--set", "shots=2", "--epochs", "2"]
    done = laresa("run", *words, cwd=tmp_path)
    assert done.stdout.startswith("hierarchy-emoji120-tiny: each arm is tuned on 2 x 2 = 4 epochs")
    assert "recipe default: " in done.stdout
    searched = re.findall(r"^searched +(\S+): ", done.stdout, re.MULTILINE)
    assert sorted(searched) == sorted(ARMS)
    found = trials("hierarchy-emoji120-tiny")
    evidence = [record for record in found if record.provenance["role"] == "evidence"]
    assert sorted((r.arm, r.config.seed) for r in evidence) == sorted((arm, seed) for arm in ARMS for seed in (0, 1))
    assert {(r.state, r.config.epochs, r.config.shots) for r in evidence} == {("finished", 2, 2)}
    page = (tmp_path / "build" / "hierarchy-emoji120-tiny" / "report.html").read_text()
    for arm in ARMS:
        assert re.search(rf"\b{arm}\b", page), arm
    assert "nothing was left to train" in laresa("run", *words, cwd=tmp_path).stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("server", "one_thread")
def test_probe_in_miniature_from_nothing_to_a_report_of_two_sweeps(tmp_path: Path) -> None:
    """Heads on the packaged network's features: tuned, then varied on less of the data, then side by side."""
    words = ["probe", "--scale", "tiny", "--subsets", "ce,hace,hace+anchor"]
    assert "together: 6 trials in 2 groups" in laresa("plan", *words, cwd=tmp_path).stdout
    done = laresa("run", *words, cwd=tmp_path)
    assert "12 finished" in done.stdout
    varied = ["--tune", "0", "--vary", "hace.dilution=0.5,0.9", "--set", "shots=2", "--sweep", "few"]
    assert "10 finished" in laresa("run", *words, *varied, cwd=tmp_path).stdout
    assert {record.arm for record in trials("few")} >= {"ce", "hace, dilution 0.5", "hace, dilution 0.9"}
    assert (tmp_path / "build" / "few" / "figures" / "varied.svg").exists()
    both = "probe-emoji120-tiny+few"
    laresa("report", "probe-emoji120-tiny", "few", cwd=tmp_path)
    grid = (tmp_path / "build" / both / "tables" / "grid.md").read_text()
    assert "emoji120, tf_efficientnet_lite0 [%] | emoji120 (2 a class), tf_efficientnet_lite0 [%]" in grid
    assert (tmp_path / "build" / both / "figures" / "severity-2.svg").exists()

"""The paper's protocol as one study: its grid, its order, and that parts of it grow into the whole."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from laresa.errors import ConfigError
from sweeps import paper, trials
from sweeps.ablation import FULL
from sweeps.cli.main import main
from sweeps.cli.studies import Parser
from sweeps.recipes import BACKBONES, PAPERS
from sweeps.service.planning.plan import check_plan, write_plan
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Study
from tests.sweeps.conftest import QUICK, laresa


def options(*words: str) -> argparse.Namespace:
    parser = Parser()
    paper.add_options(parser)
    return parser.parse_args(words)


def study(*words: str) -> Study:
    return paper.build(options(*words))


def test_the_grid_is_the_paper_s_and_a_quarter_of_it_can_be_read():
    """27 pairs, not the 29 of its App. A; what it publishes in tables 2 and 3 first, the smallest networks first."""
    whole = study()
    planned = whole.trials()
    assert (len(planned), len(whole.blocks), whole.arms[0], whole.arms[-1]) == (216, 27, "ce", FULL)
    assert {(t.config.dataset, t.config.backbone) for t in planned} == {(d, b) for d in PAPERS for b in BACKBONES}
    assert {trial.arm for trial in planned[:54]} == {"ce", FULL}
    assert {trial.config.backbone for trial in planned[:6]} == {"resnet50"}
    assert {(trial.config.seed, trial.config.fold) for trial in planned} == {(42, 0)}
    assert whole.contrasts == ((FULL, "ce"),)
    assert len({trial.signature for trial in planned}) == 216
    *recipes, small, large = paper.recipe_lines(options())
    assert len(recipes) == 9
    assert small.startswith("vit_small_patch32_224.augreg_in21k_ft_in1k: trained on ImageNet-21k first")
    assert large.startswith("vit_large_patch32_384.orig_in21k_ft_in1k: ")


def test_a_part_is_the_same_sweep_and_the_rest_comes_later(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    part = study("--dataset", "cifar100", "--backbone", "resnet50", "--subsets", f"ce,{FULL}")
    assert [trial.signature for trial in part.trials()] == [trial.signature for trial in study().trials()[:2]]
    write_plan(part, folder)
    check_plan(study("--dataset", "cub200", "--backbone", "vit_base_patch32_224", "--seeds", "42,43"), folder)
    evidence = write_plan(study(), folder)
    assert evidence.contrasts == ((FULL, "ce"),)
    with pytest.raises(ConfigError, match=r"sweep 'paper' holds 'ce \(cifar100, resnet50\)' with lr=0.001.*0.5"):
        check_plan(study("--dataset", "cifar100", "--backbone", "resnet50", "--set", "lr=0.5"), folder)


def test_what_can_t_be_one_study_is_named():
    with pytest.raises(ConfigError, match=r"--backbone 'resnet50,,': expected names with commas between, each once"):
        study("--backbone", "resnet50,,")
    with pytest.raises(ConfigError, match="--dataset 'cub200,cub200'"):
        study("--dataset", "cub200,cub200")
    with pytest.raises(ConfigError, match="--set subset: it would be ignored"):
        study("--set", "subset=ce")
    with pytest.raises(ConfigError, match="--recipe laresa has no settings for backbone 'efficientnet_b0'"):
        study("--backbone", "efficientnet_b0")
    assert study("--backbone", "efficientnet_b0", "--recipe", "default").blocks[0] == "cifar100, efficientnet_b0"


def test_a_reading_that_is_given_is_not_replaced_by_the_literal_one():
    part = study("--dataset", "cifar100", "--backbone", "resnet50", "--set", "variance.reduction=mean")
    full = next(cell.config for cell in part.cells if cell.arm == FULL)
    assert (full["variance.reduction"], full["variance.input"], full["center.input"]) == ("mean", "raw", "raw")


def test_heads_on_frozen_features_are_one_block_a_data_set():
    heads = study("--features", "tf_efficientnet_lite0", "--dataset", "emoji120,icons158", "--recipe", "heads")
    assert heads.blocks == ("emoji120, tf_efficientnet_lite0", "icons158, tf_efficientnet_lite0")


def test_data_that_is_not_here_is_planned_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A laptop plans what a cluster runs; to run it there is refused, with where to get it."""
    monkeypatch.setenv("LARESA_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("LARESA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["paper", "--dataset", "cifar100,cub200", "--backbone", "resnet50", "--gpus-per-trial", "0"]
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "16 trials, 0 done, 16 to train" in said
    assert "paper: not checked, for cifar100 is not here" in said
    assert "paper: cub200, resnet: recipe laresa: " in said
    assert "ce, cub200, resnet50, seed 42, fold 0" in said
    assert "Holm over 2 primary contrasts" in said
    assert main(["run", *words]) == 2
    assert "laresa: cifar100 is not here" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_study_in_miniature_from_plan_to_report(server: str, pictures: Path, tmp_path: Path, laresa_home: Path):
    """Two backbones, then a third in the same sweep; the report has a block for each pair."""
    words = ["paper", "--scale", "tiny", "--dataset", f"emoji120,{pictures}", "--subsets", f"ce,{FULL}"]
    words += ["--latents-every", "1", "--epochs", "2", *QUICK[2:]]
    first = [*words, "--backbone", "test_vit"]
    rows = json.loads(laresa("plan", *first, "--json", cwd=tmp_path).stdout)
    assert len(rows) == 4
    laresa("run", *first, cwd=tmp_path)
    laresa("run", *words, "--backbone", "test_resnet", cwd=tmp_path)
    assert len(trials("paper-tiny")) == 8
    table = (tmp_path / "build" / "paper-tiny" / "tables" / "top1.csv").read_text()
    assert table.count("test_vit") == table.count("test_resnet") == 4
    drawn = {path.stem for path in (tmp_path / "build" / "paper-tiny" / "figures").glob("*.svg")}
    assert {"weights-grid", "learned-beta-grid", "development-1", "latents-1"} <= drawn

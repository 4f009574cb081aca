"""The demonstration: what it plans, and the whole of it in miniature."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps import demo, trials
from sweeps.ablation import FULL
from sweeps.cli.main import build_parser
from sweeps.service.study import Replicate
from tests.sweeps.conftest import laresa


def test_it_is_eleven_arms_on_ten_test_sets_and_three_networks():
    args = build_parser().parse_args(["demo"])
    study = demo.build(args)
    assert len(study.cells) == 11
    assert study.replicates == tuple(Replicate(seed, seed) for seed in range(10))
    assert (study.searches, study.name) == ((), "demo")
    assert study.contrasts == ((FULL, "ce"), (FULL, f"{FULL}, shuffled labels"))
    (config, *_) = {(t.config.method, t.config.dataset, t.config.input_size) for t in study.trials()}
    assert config == ("heads", "icons158", 64)
    networks = demo.networks(args)
    assert [cell.arm for cell in networks.cells] == ["ce", f"{FULL}, literal reading", f"{FULL}, unit reading"]
    assert {cell.config.method for cell in networks.cells} == {"end_to_end"}
    assert networks.contrasts == ()  # two replicates show, and tell nothing


def test_what_is_given_wins_over_its_defaults():
    args = build_parser().parse_args(["demo", "--set", "heads.pca=32", "--seeds", "3"])
    study = demo.build(args)
    assert build_parser().parse_args(["demo", "--no-networks"]).no_networks
    assert {(t.config["heads.pca"], t.config.seed) for t in study.trials()} == {(32, 3)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_of_it_in_miniature(server: str, tmp_path: Path):
    done = laresa("demo", "--scale", "tiny", "--sweep", "in-miniature", "--subsets", f"ce,{FULL}", cwd=tmp_path)
    assert "4 finished" in done.stdout
    assert "3 finished" in done.stdout
    assert {record.arm for record in trials("in-miniature-networks")} == {
        "ce",
        *(f"{FULL}, {r} reading" for r in ("literal", "unit")),
    }
    assert all("test/top1_corrupted" in record.metrics for record in trials("in-miniature-networks"))
    both = (tmp_path / "build" / "in-miniature-and-networks" / "report.html").read_text(encoding="utf-8")
    assert "literal reading" in both
    assert (tmp_path / "build" / "in-miniature-and-networks" / "figures" / "robustness-2.svg").exists()

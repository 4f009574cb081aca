"""`laresa data features`: an instant baseline, and features kept for later sweeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laresa.config import TrialConfig
from laresa.data import load
from laresa.features import PACKAGED, FeatureConfig, features_of
from laresa.features.ridge import ridge
from sweeps.cli.main import main

OPTIONS = ["--set", "input_size=32", "--set", "heads.pca=32"]


def test_ridge_on_every_fold_and_features_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["data", "features", "emoji120", *OPTIONS, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["fold"] for row in rows] == list(range(6))
    assert {row["features"] for row in rows} == {32}
    data = load(TrialConfig(dataset="emoji120", fold=2))
    (kept,) = (tmp_path / "laresa" / "features").glob("*/rows.bin")
    size = kept.stat().st_size
    own = features_of(data, PACKAGED, FeatureConfig(pca=32), size=32)
    found = ridge(own, data.train.labels, data.val.labels, data.test.labels)
    assert (rows[2]["test_top1"], rows[2]["l2"]) == (found.test_top1, found.l2)
    assert found.test_top1 > 0.3  # by chance 1 in 120

    assert main(["data", "features", "emoji120", *OPTIONS]) == 0
    out = capsys.readouterr().out
    assert f"fold 2  test top-1 {found.test_top1:6.1%}" in out
    assert out.splitlines()[-1].startswith("mean    test top-1 ")
    assert kept.stat().st_size == size, "nothing is extracted twice"


def test_bad_input_is_named(capsys: pytest.CaptureFixture[str]):
    assert main(["data", "features", "emoji120", "--features", "resnet19"]) == 2
    assert "backbone='resnet19': timm knows no such model" in capsys.readouterr().err
    assert main(["data", "features", "emoji120", "--set", "heads.pca=0"]) == 2
    assert "heads.pca=0" in capsys.readouterr().err

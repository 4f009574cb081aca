"""Coarse labels: the validator, clustering on the paper's three mappings, the file and its differences."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from laresa import data
from laresa.coarsen import check_groups, classes_of
from laresa.coarsen.classes import groups_of
from laresa.coarsen.cluster import best_count, cluster
from laresa.coarsen.names import by_wordnet
from laresa.coarsen.result import compare
from laresa.errors import ConfigError, DataError
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


@given(groups=partitions(), draw=st.data())
def test_any_partition_passes_and_any_corrupted_one_is_refused_by_name(
    groups: dict[str, list[str]], draw: st.DataObject
):
    classes = [name for members in groups.values() for name in members]
    check_groups(groups, classes)
    Taxonomy.from_groups(groups, classes=classes)
    home = draw.draw(st.sampled_from(sorted(groups)))
    name = draw.draw(st.sampled_from(groups[home]))
    without = {group: [one for one in members if one != name] for group, members in groups.items()}
    with pytest.raises(DataError) as caught:
        check_groups({group: members for group, members in without.items() if members}.items(), classes)
    assert f"in no group: {name!r}" in str(caught.value)
    other = draw.draw(st.sampled_from(sorted(groups)))
    with pytest.raises(DataError) as caught:
        check_groups({**groups, other: [*groups[other], name]}, classes)
    assert f"{name!r} is in more than one place" in str(caught.value)
    with pytest.raises(DataError) as caught:
        check_groups({**groups, home: [*groups[home], "Xyz"]}, classes)
    assert "'Xyz' is no class" in str(caught.value)


def test_every_fault_is_named_at_once():
    groups = [("cats", ["siamese", "persian"]), ("cats", ["beagle"]), ("husky", ["husky", "beagle", "guppi"])]
    with pytest.raises(DataError) as caught:
        check_groups(groups, PETS)
    assert str(caught.value).split("; ") == [
        "the name of more than one group: 'cats'",
        "both a class and a group (give the group another name): 'husky'",
        "in no group: 'goldfish', 'guppy'",
        "'beagle' is in more than one place: 'cats' and 'husky'",
        "'guppi' is no class",
        "did you mean 'guppy'?",
    ]


@pytest.mark.parametrize(
    ("group", "members", "message"),
    [
        ("", ["a"], "a group's name is empty"),
        (" \t", ["a"], "a group's name is empty"),
        (" x", ["a"], "has blanks around it"),
        ("x\x1b[2J", ["a"], "can't be printed"),
        ("x\ny", ["a"], "can't be printed"),
        ("x\ud800", ["a"], "can't be printed"),
        ("x", [], "group 'x' is empty"),
        ("x", "a", "expected a list of class names, got 'a'"),
        ("x", [1], "group 'x' holds 1: expected names of classes"),
    ],
)
def test_groups_of_a_wrong_shape_are_refused(group: str, members: list[str], message: str):
    with pytest.raises(DataError, match=re.escape(message)):
        check_groups({"y": ["b"], group: members}, ["a", "b"])


def test_what_is_worth_a_look():
    names = [f"n{i}" for i in range(20)]
    assert check_groups({f"g{k}": names[4 * k : 4 * k + 4] for k in range(5)}, names) == []
    assert check_groups({"a": names[:10], "b": names[10:]}, names) == []  # a half each is even
    assert check_groups({"all": names}, names) == ["group 'all' holds 20 of 20 classes"]
    assert check_groups({"Fish": names[:10], "fish": names[10:]}, names) == [
        "groups whose names differ by case alone: 'Fish', 'fish'"
    ]


def test_the_number_of_groups(own_folder: Path):
    for count in range(1, 7):
        assert len(cluster(Taxonomy.from_names(PETS), count=count).groups) == count
    rows = np.eye(40) + 0.1
    for classes, counts in {2: [1], 3: [2], 4: [2], 5: [2], 6: [2, 3], 40: range(6, 14)}.items():
        assert len(set(best_count(rows[:classes]))) in counts
    assert len(cluster(shipped("cifar100")).groups) in range(10, 21)
    with pytest.raises(ConfigError, match="--groups 7: expected 1 to 6"):
        cluster(Taxonomy.from_names(PETS), count=7)
    with pytest.raises(ConfigError, match="did you mean 'complete'"):
        cluster(Taxonomy.from_names(PETS), linkage="complet")


def test_names_by_medoid_are_unique_and_no_class_s():
    made = cluster(Taxonomy.from_names(["like oak", "oak", "banana"]), count=3)
    assert set(made.groups) == {"like like oak", "like oak 2", "like banana"}


class Sense:
    """Of a WordNet of six nouns: its hypernyms from itself upward."""

    def __init__(self, *chain: str) -> None:
        self.chain = chain

    def lemma_names(self) -> list[str]:
        return [self.chain[0]]

    def hypernyms(self) -> list[Sense]:
        return [Sense(*self.chain[1:])] if len(self.chain) > 1 else []

    def lowest_common_hypernyms(self, other: Sense) -> list[Sense]:
        return [Sense(*self.chain[k:]) for k, name in enumerate(self.chain) if name in other.chain][:1]


WORDS = {
    "siamese": Sense("siamese", "domestic_cat", "animal", "entity"),
    "persian": Sense("persian", "domestic_cat", "animal", "entity"),
    "beagle": Sense("beagle", "hound", "dog", "animal", "entity"),
    "husky": Sense("husky", "dog", "animal", "entity"),
    "goldfish": Sense("goldfish", "fish", "animal", "entity"),
    "hammer": Sense("hammer", "tool", "entity"),
}


@pytest.fixture
def wordnet(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def put(synsets: Any) -> None:
        package, corpus = ModuleType("nltk"), ModuleType("nltk.corpus")
        package.__spec__ = ModuleSpec("nltk", None)
        corpus.wordnet = SimpleNamespace(synsets=synsets)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "nltk", package)
        monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)

    put(lambda name, pos: [WORDS[name]] if pos == "n" and name in WORDS else [])
    return put


@pytest.mark.usefixtures("wordnet")
def test_names_by_wordnet():
    naming = by_wordnet()

    def named(*groups: tuple[str, ...], classes: tuple[str, ...] = ()) -> list[str]:
        return naming(groups, [group[0] for group in groups], classes)

    assert named(("siamese", "persian"), ("beagle", "husky")) == ["domestic cat", "dog"]
    assert named(("goldfish", "guppy")) == ["fish"]  # of one that it knows, what is above it
    assert named(("guppy", "koi")) == ["like guppy"]  # knows none
    assert named(("hammer", "husky")) == ["like hammer"]  # an entity: says nothing
    assert named(("siamese", "husky"), ("goldfish", "beagle")) == ["animal (like siamese)", "animal (like goldfish)"]
    assert named(("beagle", "husky"), classes=("dog",)) == ["dog (like beagle)"]


@pytest.mark.usefixtures("wordnet")
def test_the_command_names_by_wordnet(own_folder: Path):
    (own_folder / "pets.txt").write_text("\n".join(WORDS))
    assert main(["data", "coarsen", "pets.txt", "--groups", "1", "--names", "wordnet"]) == 0
    (name,) = groups_of(Taxonomy.from_json("pets-coarse.json"))
    assert name in {f"like {word}" for word in WORDS}  # a hammer and pets have entity alone in common


def test_what_wordnet_lacks_is_said(
    wordnet: Callable[[Any], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def missing(name: str, pos: str) -> None:
        raise LookupError("Resource wordnet not found.")

    wordnet(missing)
    assert main(["data", "coarsen", "pets.txt", "--names", "wordnet"]) == 2
    assert "needs nltk's corpus wordnet, which is not installed: python -m nltk.downloader" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "nltk")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["data", "coarsen", "pets.txt", "--names", "wordnet"]) == 2
    assert "--names wordnet needs nltk, which is not installed: pip install nltk" in capsys.readouterr().err


def test_a_difference_is_told_group_by_group():
    old = {"cats": ["siamese", "persian"], "dogs": ["beagle", "husky"], "fish": ["goldfish", "guppy"]}
    assert compare(old, old).ari == compare(old, old).nmi == 1
    new = {"furry": ["siamese", "persian", "beagle"], "swims": ["goldfish", "guppy", "husky"]}
    found = compare(new, old)
    assert found.lines == (
        "furry (3), in place of cats: 2 stay; come: beagle (from dogs)",
        "swims (3), in place of fish: 2 stay; come: husky (from dogs)",
        "dogs (2) has no counterpart: now beagle (in furry), husky (in swims)",
    )
    assert 0 < found.ari < found.nmi < 1
    assert compare(old, new).lines == (
        "cats (2), in place of furry: 2 stay; gone: beagle",
        "dogs (2), in place of none: beagle (from furry), husky (from swims)",
        "fish (2), in place of swims: 2 stay; gone: husky",
    )
    with pytest.raises(DataError, match="different classes: 'koi'"):
        compare({"all": [*PETS, "koi"]}, old)


def test_the_command_writes_a_file_that_checks(capsys: pytest.CaptureFixture[str], own_folder: Path):
    assert main(["data", "coarsen", "pets.txt", "--groups", "2"]) == 0
    out = capsys.readouterr().out
    assert "wrote pets-coarse.json: 6 classes in 2 groups" in out
    assert "FOLDER/taxonomy.json" in out
    tree = Taxonomy.from_json("pets-coarse.json", classes=PETS)
    assert sorted(classes_of("pets-coarse.json").names) == sorted(PETS)
    assert tree.names == PETS
    assert "by agglomerative clustering (complete linkage, cosine)" in tree.notes[0]
    assert len(json.loads((own_folder / "pets-coarse.json").read_text())["groups"]) == 2
    assert main(["data", "coarsen", "pets.txt", "--check", "pets-coarse.json"]) == 0
    assert main(["data", "coarsen", "pets.txt"]) == 2
    assert "is there already: --force replaces it" in capsys.readouterr().err
    assert main(["data", "coarsen", "pets.txt", "--groups", "3", "--linkage", "average", "--force"]) == 0
    assert len(groups_of(Taxonomy.from_json("pets-coarse.json"))) == 3
    assert main(["data", "coarsen", "pets.txt", "--out", "sub/other.json", "--against", "pets-coarse.json"]) == 0
    assert "against pets-coarse.json: adjusted Rand index" in capsys.readouterr().out
    assert (own_folder / "sub" / "other.json").is_file()


def test_a_folder_is_told_where_its_mapping_belongs(capsys: pytest.CaptureFixture[str], own_folder: Path):
    folder = own_folder / "pets"
    for part in ("train", "test"):
        for name in PETS:
            (folder / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / part / name / "1.png")
    assert main(["data", "coarsen", "pets", "--groups", "3"]) == 0
    assert f"cp pets-coarse.json {folder}/taxonomy.json; then" in capsys.readouterr().out
    shutil.copy("pets-coarse.json", folder / "taxonomy.json")
    assert len(data.source(str(folder)).taxonomy.coarse_names) == 3
    assert main(["data", "coarsen", "pets", "--check", "pets/taxonomy.json"]) == 0
    out = capsys.readouterr().out
    assert "against pets's own groups: adjusted Rand index 1.00, NMI 1.00" in out
    assert "cp " not in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"groups": {"all": ["siamese", "persian", "beagle", "husky", "goldfish"]}}', "in no group: 'guppy'"),
        ('{"groups": {"a": ["siamese"], "a": ["persian"]}}', "'a' is repeated in the taxonomy"),
        ('{"groups": {}}', "in no group: "),
        ('{"groups": []}', "groups, paths and descriptions are JSON objects"),
        ('{"groops": {}}', "unknown key 'groops' in a taxonomy; did you mean 'groups'?"),
        ('{"classes": ["siamese", "persian"]}', "has no groups"),
        ("[]", "a taxonomy is a JSON object, not list"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not JSON"),
        (None, "can't read the groups"),
    ],
)
def test_a_file_edited_into_something_else_is_refused(
    text: str | None, message: str, own_folder: Path, capsys: pytest.CaptureFixture[str]
):
    if text is not None:
        (own_folder / "mine.json").write_bytes(text.encode(errors="surrogateescape"))
    assert main(["data", "coarsen", "pets.txt", "--check", "mine.json"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "mine.json" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "unknown data set 'nowhere'"),
        (["nowhere.txt"], "can't read the class names nowhere.txt"),
        (["twice.txt"], "'a' stands twice"),
        (["empty.txt"], "twice"),
        (["pets.txt", "--groups", "7"], "--groups 7: expected 1 to 6"),
        (["pets.txt", "--out", "."], "is a folder: expected --out FILE"),
        (["pets.txt", "--check", "x.json", "--groups", "2"], "--groups with --check, which makes nothing: it would be"),
        (["pets.txt", "--check", "x.json", "--force"], "--force with --check"),
        (["pets.txt", "--llm", "--names", "medoid"], "--names with --llm, which clusters nothing: it would be ignored"),
        (["pets.txt", "--llm-model", "m"], "--llm-model with no --llm: it would be ignored"),
    ],
)
def test_bad_use_is_named_and_writes_nothing(
    words: list[str], message: str, own_folder: Path, capsys: pytest.CaptureFixture[str]
):
    (own_folder / "twice.txt").write_text("a\nb\na\n")
    (own_folder / "empty.txt").write_text("\n")
    before = sorted(own_folder.iterdir())
    assert main(["data", "coarsen", *words]) == 2
    assert (message if words != ["empty.txt"] else "empty.txt: ") in capsys.readouterr().err
    assert sorted(own_folder.iterdir()) == before


@pytest.mark.parametrize("name", ["cifar100", "cub200", "tinyimagenet", "emoji120", "icons158", "names.json"])
def test_classes_are_known_without_images(name: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LARESA_DATA", str(own_folder))
    (own_folder / "names.json").write_text(json.dumps(PETS))
    found = classes_of(name)
    assert len(found.names) == {"cub200": 200, "tinyimagenet": 200, "emoji120": 120, "icons158": 158}.get(
        name, 6 if name == "names.json" else 100
    )
    assert (found.groups is None) == (name == "names.json")

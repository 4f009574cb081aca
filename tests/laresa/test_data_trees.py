"""FGVC-Aircraft and NABirds: trees of three and four levels, on tiny copies in the true format of their files."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laresa import data
from laresa.data import tree
from laresa.data.report import check, describe
from laresa.errors import DataError
from laresa.taxonomy import Taxonomy


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LARESA_DATA", str(tmp_path / "data"))


def photograph(path: Path, shade: int, *, banner: int = 0, size: tuple[int, int] = (60, 40)) -> None:
    """One grey, with so many white rows at its foot."""
    pixels = np.full((size[1] + banner, size[0], 3), shade, np.uint8)
    pixels[size[1] :] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path.name, old, text.count(old))
    path.write_text(text.replace(old, new))


# ---------------------------------------------------------------------- FGVC-Aircraft
AIRCRAFT = {  # variant -> family, manufacturer
    "707-320": ("Boeing 707", "Boeing"),
    "737-200": ("Boeing 737", "Boeing"),
    "737-300": ("Boeing 737", "Boeing"),
    "F-16A/B": ("F-16", "Lockheed Martin"),
    "F/A-18": ("F/A-18", "McDonnell Douglas"),
    "Spitfire": ("Spitfire", "Supermarine"),
}
ROWS = {"train": 3, "val": 2, "test": 2}  # images a variant


def image_id(part: str, label: int, i: int) -> str:
    """Seven digits, as theirs."""
    return f"{1000 * (1 + list(ROWS).index(part)) + 10 * label + i:07}"


@pytest.fixture
def aircraft(tmp_path: Path) -> Path:
    """fgvc-aircraft-2013b/data, as its archive unpacks."""
    folder = tmp_path / "data" / "fgvc-aircraft-2013b" / "data"
    folder.mkdir(parents=True)
    levels = {"variant": [*AIRCRAFT], "family": [], "manufacturer": []}
    for family, manufacturer in AIRCRAFT.values():
        levels["family"] += [family] if family not in levels["family"] else []
        levels["manufacturer"] += [manufacturer] if manufacturer not in levels["manufacturer"] else []
    for level, listed in {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}.items():
        (folder / f"{listed}.txt").write_text("\n".join(levels[level]) + "\n")
    for part, each in ROWS.items():
        tables: dict[str, list[str]] = {level: [] for level in levels}
        for label, (variant, above) in enumerate(AIRCRAFT.items()):
            for i in range(each):
                image = image_id(part, label, i)
                photograph(folder / "images" / f"{image}.jpg", 20 * label, banner=20)
                for level, name in zip(levels, (variant, *above), strict=True):
                    tables[level].append(f"{image} {name}")
        for level, lines in tables.items():
            (folder / f"images_{level}_{part}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_aircraft_are_read_from_their_tables_without_the_banner(aircraft: Path) -> None:
    dataset = data.load("fgvc_aircraft", image_size=32)
    assert dataset.taxonomy.names == tuple(AIRCRAFT)
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [18, 12, 12]
    for split in (dataset.train, dataset.val, dataset.test):  # the shade of an image is its class's, to its lowest row
        assert (split.images.int() - 20 * split.labels[:, None, None, None]).abs().max() <= 2
    assert dataset.fold_note.startswith("fold 0 of 1: validation images of its own")
    assert data.folds("fgvc_aircraft") == 1


def test_the_tree_of_aircraft_is_that_of_the_labels(aircraft: Path) -> None:
    tree = data.load("fgvc_aircraft", image_size=8).taxonomy
    assert [tree.node_names[node] for node in tree.path(0)] == ["707-320", "Boeing 707", "Boeing", "aircraft"]
    spitfire = tree.path(tree.names.index("Spitfire"))
    assert [tree.node_names[node] for node in spitfire] == ["Spitfire", "Spitfire group", "Supermarine", "aircraft"]
    assert len(tree.parents) == 6 + 5 + 4 + 1
    assert (tree.parents < 0).sum() == 1
    assert tree.levels == 4
    assert tree.lca_height(1, 2) == 1
    assert tree.lca_height(0, 1) == 2
    assert tree.lca_height(0, 5) == 3


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("images_variant_train", "0001010 737-200", "0001010 737-20", r"_train.txt, line 4: '737-20' is none of the 6"),
        ("images_family_val", "0002000 Boeing 707", "0002000", r"_val.txt, line 1: expected two fields .* '0002000'"),
        ("images_family_test", "0003001 Boeing", "0003000 Boeing", r"line 2: '0003000' stands in two lines"),
        (
            "images_manufacturer_test",
            "0003000 Boeing\n",
            "",
            r"images_manufacturer_test.txt has no line of image 0003000, which stands in .*images_variant_test.txt",
        ),
        (
            "images_variant_test",
            "0003000 707-320\n",
            "",
            r"images_variant_test.txt has no line of image 0003000, which stands in .*images_family_test.txt",
        ),
        (
            "images_family_val",
            "0002000 Boeing 707",
            "0002000 F-16",
            r"images_variant_val.txt, image 0002000: 'variant 707-320' has two parents, 'family Boeing 707' and "
            r"'family F-16'",
        ),
        (
            "images_manufacturer_val",
            "0002050 Supermarine",
            "0002050 Boeing",
            r"images_family_val.txt, image 0002050: 'family Spitfire' has two parents",
        ),
    ],
)
def test_a_damaged_table_of_aircraft_is_named_with_its_line(
    aircraft: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(aircraft / f"{file}.txt", old, new)
    with pytest.raises(DataError, match=message):
        data.load("fgvc_aircraft")


def test_what_is_missing_of_aircraft_is_named(aircraft: Path) -> None:
    (aircraft / "images" / "0002000.jpg").write_bytes(b"cut short")
    with pytest.raises(DataError, match=r"0002000.jpg does not decode"):
        data.load("fgvc_aircraft")
    (aircraft / "images_family_val.txt").write_bytes(b"0002000 Boeing \xff\n")
    with pytest.raises(DataError, match=r"images_family_val.txt can't be read: .*0xff"):
        data.load("fgvc_aircraft")
    (aircraft / "images_family_val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"images_family_val.txt: expected lines .* empty file"):
        data.load("fgvc_aircraft")
    (aircraft / "families.txt").unlink()
    with pytest.raises(DataError, match=r"families.txt can't be read"):
        data.load("fgvc_aircraft")


def test_a_variant_without_training_image_is_named(aircraft: Path) -> None:
    with (aircraft / "variants.txt").open("a") as file:
        file.write("Yak-42\n")
    with pytest.raises(DataError, match=r"fgvc-aircraft-2013b/data: .*'Yak-42'"):
        data.load("fgvc_aircraft")


# ---------------------------------------------------------------------- NABirds
BIRDS = {  # node -> name, parent; the kinds are those with images, at depths 2 and 3
    0: ("Birds", None),
    1: ("Ducks, Geese, and Swans", 0),
    2: ("Hawks", 0),
    3: ("Mallard", 1),
    4: ("Snow Goose", 1),
    10: ("Snow Goose", 4),
    11: ("Snow Goose (Blue morph)", 4),
    12: ("Mallard (Male)", 3),
    13: ("Mallard (Female/Eclipse male)", 3),
    101: ("Osprey", 2),
    102: ("Great Auk", 2),
}
KINDS = (10, 11, 12, 13, 101)
TRAINED, TESTED = 2, 4


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """nabirds, as its archive unpacks: images by uuid, in a folder a kind."""
    folder = tmp_path / "data" / "nabirds"
    folder.mkdir(parents=True)
    tables: dict[str, list[str]] = {
        "classes": [f"{node} {name}" for node, (name, _) in BIRDS.items()],
        "hierarchy": [f"{node} {parent}" for node, (_, parent) in BIRDS.items() if parent is not None],
        "images": [],
        "image_class_labels": [],
        "train_test_split": [],
    }
    for label, kind in enumerate(KINDS):
        for i in range(TRAINED + TESTED):
            image = uuid.UUID(int=100 * kind + i)
            path = f"{kind:04}/{image.hex}.jpg"
            photograph(folder / "images" / path, 30 * label)
            tables["images"].append(f"{image} {path}")
            tables["image_class_labels"].append(f"{image} {kind}")
            tables["train_test_split"].append(f"{image} {int(i < TRAINED)}")
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_birds_are_read_from_their_tables(birds: Path) -> None:
    dataset = data.load("nabirds", image_size=16)
    names = ("Snow Goose", "Snow Goose (Blue morph)", "Mallard (Male)", "Mallard (Female/Eclipse male)", "Osprey")
    assert dataset.taxonomy.names == names  # in the order of their numbers, not of their digits
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [10, 10, 10]
    for split in (dataset.train, dataset.val, dataset.test):  # the shade of an image is its kind's
        assert (split.images.int() - 30 * split.labels[:, None, None, None]).abs().max() <= 2
    assert data.folds("nabirds") == 2
    other = data.load("nabirds", image_size=16, fold=1)
    assert other.test.images.equal(dataset.val.images)


def test_the_tree_of_birds_has_kinds_at_different_depths(birds: Path) -> None:
    tree = data.load("nabirds", image_size=8).taxonomy
    paths = [[tree.node_names[node] for node in tree.path(leaf)] for leaf in range(tree.leaves)]
    assert paths[0] == ["Snow Goose", "Snow Goose group", "Ducks, Geese, and Swans", "Birds"]
    assert paths[2] == ["Mallard (Male)", "Mallard", "Ducks, Geese, and Swans", "Birds"]
    assert paths[4] == ["Osprey", "Hawks", "Birds"]
    assert len(tree.parents) == 10
    assert tree.notes == ("1 leaves of the tree have no image and are no classes, 'Great Auk' first",)


KIND_10 = str(uuid.UUID(int=1000))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("hierarchy", "\n12 3\n", "\n12 3\n12 4\n", r"hierarchy.txt, line 8: '12' has two parents: '3' and '4'"),
        ("hierarchy", "1 0\n", "1 4\n", r"hierarchy.txt: a cycle in the tree: 4 > 1 > 4"),
        ("hierarchy", "\n2 0\n", "\n", r"hierarchy.txt: expected one root, found 2: Hawks, Birds"),
        ("hierarchy", "\n101 2\n", "\n101 999\n", r"hierarchy.txt, line 9: '999' is none of the 11 known"),
        ("hierarchy", "\n12 3\n", "\n12 13\n", r"hierarchy.txt: 'Mallard \(Female/Eclipse male\)' \(13\) is a class"),
        ("hierarchy", "\n101 2\n", "\n", r"hierarchy.txt: .*'Osprey'"),
        ("classes", "\n3 Mallard\n", "\n3\n", r"classes.txt, line 4: expected two fields .* found '3'"),
        ("image_class_labels", f"{KIND_10} 10\n", f"{KIND_10} 777\n", r"labels.txt, line 1: '777' is none of the 11"),
        ("image_class_labels", f"{KIND_10} 10\n", "", rf"class_labels.txt has no line of image {KIND_10}"),
        ("train_test_split", f"{KIND_10} 1\n", f"{KIND_10} 2\n", r"split.txt, line 1: '2' is none of the 2 known"),
        ("train_test_split", f"{KIND_10} 1\n", "", rf"train_test_split.txt has no line of image {KIND_10}"),
        ("images", f"{KIND_10} ", f"{KIND_10}", r"images.txt, line 1: expected two fields"),
    ],
)
def test_a_damaged_table_of_birds_is_named_with_its_line(
    birds: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(birds / f"{file}.txt", old, new)
    with pytest.raises(DataError, match=message):
        data.load("nabirds")


@pytest.mark.parametrize("fixture", ["aircraft", "birds"])
def test_without_its_images_a_data_set_is_named(fixture: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    (folder / "images").rename(folder / "elsewhere")
    with pytest.raises(DataError, match=r"/images can't be read: No such file"):
        data.load("fgvc_aircraft" if fixture == "aircraft" else "nabirds")


def test_a_missing_photograph_is_named(birds: Path) -> None:
    path = next((birds / "images" / "0101").iterdir())
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        data.load("nabirds")


# ---------------------------------------------------------------------- both
@pytest.mark.parametrize(
    ("name", "url", "numbers"),
    [
        ("fgvc_aircraft", "robots.ox.ac.uk", {"classes": 100, "images": 10_000, "folds": 1}),
        ("nabirds", "allaboutbirds.org", {"classes": 555, "images": 48_562, "folds": 2}),
    ],
)
def test_absent_data_is_listed_and_says_where_to_get_it(
    name: str, url: str, numbers: dict[str, int], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"(?s){tmp_path}.*{url}.*LARESA_DATA"):
        data.load(name)
    (record,) = [record for record in describe() if record["name"] == name]
    assert not record["present"]
    assert url in record["origin"]
    assert {key: record[key] for key in numbers} == numbers


def test_data_there_is_listed_and_checked(aircraft: Path, birds: Path) -> None:
    present = {record["name"]: record["present"] for record in describe()}
    assert present["fgvc_aircraft"]
    assert present["nabirds"]
    assert "Great Auk" in check("nabirds", image_size=8)[0]
    assert not any("line" in finding for finding in check("fgvc_aircraft", image_size=8))


# ---------------------------------------------------------------------- trees
def grown(leaves: str, edges: str, names: dict[str, str] | None = None) -> Taxonomy:
    """From "a b" and "a>x b>x x>top"."""
    parent = dict(edge.split(">") for edge in edges.split())
    nodes = {*parent, *parent.values()}
    return tree.from_parents(leaves.split(), parent, {node: node for node in sorted(nodes)} | (names or {}))


def test_nodes_without_a_class_below_them_are_left_out() -> None:
    assert grown("a b", "a>x b>x x>top c>y y>top").node_names == ("a", "b", "x", "top")


def test_equal_names_are_told_apart_from_the_leaves_up() -> None:
    made = grown("a b", "a>x b>x x>top", {"a": "Owl", "b": "Owl", "x": "Owl", "top": "Owl group"})
    assert made.node_names == ("Owl", "Owl (b)", "Owl group", "Owl group group")


@pytest.mark.parametrize(
    ("leaves", "edges", "message"),
    [
        ("a b", "a>x b>x x>y y>x", r"a cycle in the tree: x > y > x"),
        ("a b", "a>a b>x", r"a cycle in the tree: a > a"),
        ("a b", "a>b b>x", r"'b' \(b\) is a class, with images, and stands above 'a'"),
    ],
)
def test_what_is_no_tree_is_refused(leaves: str, edges: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        grown(leaves, edges)

"""Taxonomy: numbering, ancestors, what is refused, and the mappings that ship."""

import json
import logging
import re

import numpy as np
import pytest
from hypothesis import given, settings

from laresa.errors import DataError
from laresa.taxonomy import Taxonomy, shipped
from tests.laresa.checks import trees

GROUPS = {"bird": ["owl", "duck"], "tool": ["saw"]}
# ragged: the owl lies two levels deep, the saw one
PATHS = {"owl": ("bird", "animal"), "saw": ("tool",), "cat": ("mammal", "animal"), "duck": ("bird", "animal")}


def test_groups_give_leaves_in_order_then_groups():
    tree = Taxonomy.from_groups(GROUPS)
    assert tree.names == ("owl", "duck", "saw")
    assert tree.internal == ("bird", "tool")
    assert tree.parents.tolist() == [3, 3, 4, -1, -1]
    assert tree.parents.dtype == np.int64
    assert tree.parent_C.tolist() == [0, 0, 1]
    assert tree.coarse_names == ("bird", "tool")
    assert tree.leaves == 3


def test_nodes_of_a_ragged_tree_are_numbered_level_by_level():
    tree = Taxonomy.from_paths(PATHS)
    assert tree.node_names == ("owl", "saw", "cat", "duck", "bird", "tool", "mammal", "animal")
    assert tree.parents.tolist() == [4, 5, 6, 4, 7, -1, 7, -1]
    assert tree.heights.tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert tree.parent_C.tolist() == [0, 1, 2, 0]
    assert tree.coarse_names == ("bird", "tool", "mammal")


def test_a_parent_at_two_heights_is_numbered_above_both():
    tree = Taxonomy.from_paths({"stone": ("thing",), "owl": ("bird", "animal", "thing")})
    assert tree.internal == ("bird", "animal", "thing")
    assert tree.coarse_names == ("bird", "thing")
    assert tree.parent_C.tolist() == [1, 0]


def test_ancestors_leave_the_node_out_and_path_takes_it_in():
    tree = Taxonomy.from_paths(PATHS)
    assert tree.ancestors(0) == (4, 7)
    assert tree.path(0) == (0, 4, 7)
    assert tree.ancestors(1) == (5,)
    assert tree.ancestors(7) == ()


@pytest.mark.parametrize(
    ("i", "j", "height"), [(0, 0, 0), (0, 3, 1), (0, 2, 2), (0, 1, 3), (1, 0, 3), (0, 4, 1)], ids=str
)
def test_lca_height(i, j, height):
    # 0 and 1 stand in different trees: they meet above the highest top, which has height 2
    assert Taxonomy.from_paths(PATHS).lca_height(i, j) == height


def test_classes_set_the_order_of_the_leaves():
    tree = Taxonomy.from_groups(GROUPS, classes=["saw", "duck", "owl"])
    assert tree.names == ("saw", "duck", "owl")
    assert [tree.coarse_names[k] for k in tree.parent_C] == ["tool", "bird", "bird"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Taxonomy.from_groups({"bird": ["owl", "duck"], "pet": ["duck"]}),
            r"'duck' is repeated.*'bird'.*'pet'",
        ),
        (lambda: Taxonomy.from_groups({"bird": ["owl", "owl"]}), "'owl' is repeated"),
        (lambda: Taxonomy.from_groups({"bird": ["owl"], "tool": []}), "group 'tool' is empty"),
        (lambda: Taxonomy.from_groups({"bird": "owl"}), "expected a list"),
        (lambda: Taxonomy.from_groups({"bird": ["owl", " "]}), "empty name"),
        (lambda: Taxonomy.from_groups({"": ["owl"]}), "empty name"),
        (lambda: Taxonomy.from_groups({}), "0 nodes"),
        (lambda: Taxonomy.from_paths({"owl": ()}), "'owl' has no parent"),
        (lambda: Taxonomy.from_paths({"owl": ("bird", "animal", "bird")}), "cycle"),
        (lambda: Taxonomy.from_paths({"owl": ("a", "b"), "cat": ("b", "a")}), "cycle"),
        (lambda: Taxonomy.from_paths({"owl": ("bird", "animal"), "duck": ("bird", "food")}), "'bird' has two parents"),
        (lambda: Taxonomy.from_paths({"owl": ("bird",), "bird": ("animal",)}), "both a class and a group"),
        (lambda: Taxonomy.from_groups(GROUPS, classes=["owl", "duck", "saw", "dack"]), "'dack' has no place.*'duck'"),
        (lambda: Taxonomy.from_groups(GROUPS, classes=["owl", "saw"]), "'duck' is no class"),
        (lambda: Taxonomy.from_groups(GROUPS, classes=["owl", "owl", "duck", "saw"]), "repeated: 'owl'"),
        (lambda: Taxonomy.from_groups(GROUPS, descriptions={"oul": "a bird"}), "'oul'.*did you mean 'owl'"),
        (lambda: Taxonomy(("a", "b"), np.array([2, 2, 0]), ("c",)), r"'c' \(node 2\) has parent 'a' .*cycle"),
        (lambda: Taxonomy(("a", "b"), np.array([2, 2, 2]), ("c",)), r"'c' \(node 2\) has parent 'c' .*cycle"),
        (lambda: Taxonomy(("a", "b"), np.array([2, 2, 3, 2]), ("c", "d")), r"'d' .* has parent 'c' .*cycle"),
        (lambda: Taxonomy(("a", "b"), np.array([1, 2, -1]), ("c",)), "'b', a class: expected an internal node"),
        (lambda: Taxonomy(("a", "b"), np.array([2, 2, -1]), ("a",)), "must differ: 'a' stands twice"),
        (lambda: Taxonomy(("a", "b"), np.array([2, 9, -1]), ("c",)), "'b' has parent 9: expected a node from 0 to 2"),
        (lambda: Taxonomy(("a", "b"), np.array([2, -2, -1]), ("c",)), "'b' has parent -2"),
        (lambda: Taxonomy(("a", "b"), np.array([2, 2, -1, -1]), ("c", "d")), "no path from a class reaches 'd'"),
        (lambda: Taxonomy(("a", "b"), np.array([2, 2, 4, 4, -1]), ("c", "d", "e")), "no path .* reaches 'd'"),
        (lambda: Taxonomy.from_groups({"bird": ["owl"]}), "one class only, 'owl'"),
        (lambda: Taxonomy.from_names(["owl"]), "one class only, 'owl'"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(DataError, match=message):
        build()


def test_texts_are_spoken_names():
    tree = Taxonomy.from_groups({"fruit_and-vegetables": ["sweet_pepper", "Chuck-will-Widow"]})
    assert tree.texts("name") == ("sweet pepper", "Chuck will Widow", "fruit and vegetables")


def test_descriptions_are_used_and_a_class_without_one_is_an_error(caplog):
    tree = Taxonomy.from_groups(GROUPS, descriptions={"owl": "hunts at night", "duck": "swims", "saw": "cuts wood"})
    with caplog.at_level(logging.WARNING):
        assert tree.texts("description") == ("hunts at night", "swims", "cuts wood", "bird", "tool")
    assert "'bird', 'tool'" in caplog.text
    with pytest.raises(DataError, match="'duck', 'saw'"):
        Taxonomy.from_groups(GROUPS, descriptions={"owl": "hunts at night"}).texts("description")
    with pytest.raises(DataError, match="did you mean 'name'"):
        tree.texts("nam")


def test_dict_and_back():
    tree = Taxonomy.from_paths(PATHS, descriptions={"owl": "hunts at night"}, notes=["made up"])
    again = Taxonomy.from_dict(json.loads(json.dumps(tree.to_dict())))
    assert again.node_names == tree.node_names
    assert again.parents.tolist() == tree.parents.tolist()
    assert again.descriptions == tree.descriptions
    assert again.notes == ("made up",)


def test_a_flat_data_set_has_classes_and_no_tree():
    tree = Taxonomy.from_names(["owl", "saw"], descriptions={"owl": "hunts"})
    assert tree.flat
    assert not Taxonomy.from_groups(GROUPS).flat
    assert (tree.levels, tree.coarse_names, tree.parent_C.tolist()) == (1, ("owl", "saw"), [0, 1])
    again = Taxonomy.from_dict(json.loads(json.dumps(tree.to_dict())))
    assert (again.names, again.flat, again.descriptions) == (tree.names, True, tree.descriptions)
    for names in (["owl", " "], ["owl", 3]):
        with pytest.raises(DataError, match="empty name"):
            Taxonomy.from_names(names)


@pytest.mark.parametrize("paths", [PATHS, {"a": ("b", "c", "d"), "e": ("d",)}])
def test_tables_of_the_tree_are_what_its_paths_say(paths):
    tree = Taxonomy.from_paths(paths)
    nodes = range(len(tree.parents))
    for i in nodes:
        for j in nodes:
            common = [node for node in tree.path(i) if node in tree.path(j)]
            expected = tree.heights[common[0]] if common else tree.heights.max() + 1
            assert tree.lca_VV[i, j] == tree.lca_height(i, j) == expected
            assert tree.ancestor_VV[i, j] == (i in tree.path(j))
    for leaf in range(tree.leaves):
        for node in nodes:
            path = tree.path(leaf)
            assert tree.steps_CV[leaf, node] == (path.index(node) if node in path else -1)
        assert [node for node in tree.paths_CS[leaf].tolist() if node >= 0] == list(tree.path(leaf))
        assert [tree.level(k)[leaf] for k in range(6)] == [tree.path(leaf)[: k + 1][-1] for k in range(6)]
        for other in range(tree.leaves):
            here, there = (["nowhere", *tree.path(end)[::-1]] for end in (leaf, other))
            common = sum(a == b for a, b in zip(here, there, strict=False))
            assert tree.distance_CC[leaf, other] == len(here) + len(there) - 2 * common


def test_levels_that_tell_classes_apart_are_all_but_the_root_s():
    assert Taxonomy.from_groups(GROUPS).telling == 2
    rooted = Taxonomy.from_paths({"owl": ("bird", "thing"), "saw": ("tool", "thing")})
    assert (rooted.levels, rooted.telling) == (3, 2)
    assert Taxonomy.from_paths({"owl": ("bird", "thing"), "saw": ("thing",)}).telling == 2
    assert Taxonomy.from_names(["owl", "saw"]).telling == 1
    assert Taxonomy.from_groups({"all": ["owl", "saw"]}).telling == 1


@settings(max_examples=50)
@given(tree=trees())
def test_a_tree_s_fingerprint_is_of_its_names_and_paths_only(tree):
    known = tree.fingerprint
    assert re.fullmatch("[0-9a-f]{16}", known)
    paths = tree.to_dict()["paths"]
    turned = dict(reversed(paths.items()))
    assert Taxonomy.from_paths(turned, notes=["said"], descriptions={"leaf 0": "the first"}).fingerprint == known
    for leaf, path in paths.items():  # every class renamed, every path made longer
        assert Taxonomy.from_paths({**{k: v for k, v in paths.items() if k != leaf}, "new": path}).fingerprint != known
        assert Taxonomy.from_paths({**paths, leaf: ["only this one's", *path]}).fingerprint != known
    assert Taxonomy.from_names(tree.names).fingerprint != known


def test_a_tree_s_fingerprint_is_the_same_on_every_machine():
    assert Taxonomy.from_paths(PATHS).fingerprint == "8c1ea49291eadf24"


def test_parents_cannot_be_written():
    tree = Taxonomy.from_groups(GROUPS)
    with pytest.raises(ValueError, match="read-only"):
        tree.parents[0] = 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"groups": {"bird": ["owl"], "bird": ["duck"]}}', "'bird' is repeated"),
        ('{"groups": {"bird": ["owl"]}, "paths": {"owl": ["bird"]}}', "either"),
        ('{"grups": {"bird": ["owl"]}}', "did you mean 'groups'"),
        ('{"groups": ["owl"]}', "JSON object"),
        ('{"groups"', "not JSON"),
        ("[]", "JSON object"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        ('{"groups": {"a": [["x"]]}}', "holds \\['x'\\]: expected names"),
        ('{"groups": {"a": [{"x": 1}]}}', "expected names of classes"),
        ('{"groups": {"a": ["x", "y"]}, "notes": 3}', "notes of a taxonomy are a list of texts"),
        ('{"groups": {"a": ["x", "\\u001b[31m"]}}', "control characters"),
        ('{"groups": {"a": ["x", "\\ud800"]}}', "not UTF-8"),
        ('{"groups": {"a": ["x", "y\\n"]}}', "control characters"),
    ],
)
def test_a_file_that_is_no_taxonomy_is_named(tmp_path, text, message):
    path = tmp_path / "taxonomy.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        Taxonomy.from_json(path)
    assert str(path) in str(error.value)


def test_from_json_reads_both_forms(tmp_path):
    path = tmp_path / "taxonomy.json"
    path.write_text(json.dumps({"groups": GROUPS, "descriptions": {"owl": "hunts at night"}}))
    assert Taxonomy.from_json(path).descriptions == {"owl": "hunts at night"}
    path.write_text(json.dumps({"paths": PATHS}))
    assert Taxonomy.from_json(path).names == tuple(PATHS)
    with pytest.raises(DataError, match="can't read"):
        Taxonomy.from_json(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("name", "classes", "groups"), [("cifar100", 100, 20), ("cub200", 200, 28), ("tinyimagenet", 200, 31)]
)
def test_shipped_mappings(name, classes, groups):
    tree = shipped(name)
    assert tree.leaves == classes
    assert len(tree.coarse_names) == groups
    assert np.bincount(tree.parent_C, minlength=groups).min() >= 1


def test_known_places_in_the_shipped_mappings():
    def parent(tree, name):
        return tree.coarse_names[tree.parent_C[tree.names.index(name)]]

    assert parent(shipped("cifar100"), "maple_tree") == "trees"
    assert parent(shipped("cub200"), "Ovenbird") == "Warblers"
    tiny = shipped("tinyimagenet")
    assert parent(tiny, "goldfish") == "aquatic-animals"  # the paper's
    assert parent(tiny, "pizza") == "food"  # ours


def test_the_name_that_no_bird_bears_is_left_out_aloud(caplog):
    with caplog.at_level(logging.WARNING):
        tree = shipped("cub200")
    assert "Swamp-Sparrow" not in tree.names
    assert "'Swamp-Sparrow'" in caplog.text
    assert "201 names" in tree.notes[0]
    assert shipped("cifar100").notes == ()

"""The embedded data set: what is in the file, how it is cut into folds, and that the build makes it again."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from laresa import data
from laresa.config import TrialConfig
from laresa.data import drawings, emoji120, emoji120_build
from laresa.errors import DataError

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40" width="40" height="40">'
    '<rect x="10" y="4" width="8" height="32" fill="#ff0000"/></svg>'
)

FAMILIES = ("noto", "noto-v1", "fxemoji", "fluent", "twemoji", "emojione")


@pytest.fixture(scope="module")
def arrays():
    return emoji120._read(None)


def test_the_file_holds_what_the_table_says(arrays):
    assert arrays["images"].shape == (931, 3, 32, 32)
    assert arrays["images"].dtype == np.uint8
    assert len(arrays["classes"]) == 120
    per_set = dict(zip(*np.unique(arrays["sets"], return_counts=True), strict=True))
    assert per_set == {s.name: 91 if s.name == "fxemoji" else 120 for s in emoji120_build.SETS}
    licences = set(zip(arrays["sets"].tolist(), arrays["licences"].tolist(), strict=True))
    assert licences == {(s.name, s.licence) for s in emoji120_build.SETS}
    assert set(arrays["licences"]) == {"Apache-2.0", "MIT", "CC-BY-4.0"}
    assert set(arrays["families"]) == set(FAMILIES)


def test_the_musical_keyboard_is_left_out(arrays):
    keyboard = arrays["classes"].tolist().index("keyboard")
    drawn_by = arrays["sets"][arrays["labels"] == keyboard].tolist()
    assert "fxemoji" not in drawn_by
    assert len(drawn_by) == 7


def test_no_picture_is_empty_or_touches_the_margin(arrays):
    images = arrays["images"]
    assert (images.reshape(len(images), -1).min(1) < 200).all()
    edges = np.concatenate(
        [images[:, :, (0, -1), :].reshape(len(images), -1), images[:, :, :, (0, -1)].reshape(len(images), -1)], 1
    )
    assert (edges == 255).all()


def test_the_tree_has_three_levels():
    tree = emoji120.taxonomy()
    assert (tree.leaves, len(tree.coarse_names), len(tree.parents)) == (120, 24, 120 + 24 + 5)
    assert np.bincount(tree.parent_C).tolist() == [5] * 24
    owl = tree.names.index("owl")
    assert [tree.node_names[node] for node in tree.ancestors(owl)] == ["animal-bird", "Animals & Nature"]


def test_exchanged_splits_judge_on_what_the_fold_tests_and_are_other_data_to_every_cache():
    plain, exchanged = TrialConfig(fold=5), TrialConfig(fold=5, exchange_splits=True)
    before, after = data.load(plain), data.load(exchanged)
    for part, other in (("train", "train"), ("val", "test"), ("test", "val")):
        assert torch.equal(getattr(after, part).images, getattr(before, other).images)
        assert torch.equal(getattr(after, part).labels, getattr(before, other).labels)
    assert after.fold_note == f"{before.fold_note}; validation and test part exchanged"
    assert after.fingerprint == before.fingerprint
    assert data.data_key(plain) != data.data_key(exchanged)
    tested = [data.load("emoji120", fold=fold).test.images for fold in range(5)]  # of the folds open to replicates
    assert not any(torch.equal(after.val.images, images) for images in tested)


@pytest.mark.parametrize("fold", range(6))
def test_a_fold_never_shows_the_tested_or_validated_hand_in_training(arrays, fold):
    dataset = data.load("emoji120", fold=fold)
    tested, validated = FAMILIES[fold], FAMILIES[(fold + 1) % 6]

    def family_of(image):
        (index,) = np.flatnonzero((arrays["images"] == image.numpy()).all((1, 2, 3)))[:1]
        return arrays["families"][index]

    assert {family_of(image) for image in dataset.test.images} == {tested}
    assert {family_of(image) for image in dataset.val.images[::7]} == {validated}
    assert {family_of(image) for image in dataset.train.images[::7]} == set(FAMILIES) - {tested, validated}
    assert f"tests family {tested}" in dataset.fold_note
    assert f"validates on {validated}" in dataset.fold_note
    assert torch.bincount(dataset.test.labels).max() == 1  # fluent too: one rendering a class
    assert len(dataset.train.labels.unique()) == 120


def test_test_sets_of_the_folds_together_hold_each_family_once():
    sizes = [len(data.load("emoji120", fold=fold).test) for fold in range(6)]
    assert sizes == [120, 120, 91, 120, 120, 120]


def test_mean_and_deviation_are_those_of_the_training_images():
    dataset = data.load("emoji120", fold=2)
    pixels = dataset.train.images.double() / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert dataset.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_the_fingerprint_is_pinned_and_changes_with_the_size():
    first, other = (data.load("emoji120", fold=fold) for fold in (0, 3))
    larger = data.load("emoji120", image_size=48)
    # A change of the shipped pixels or labels changes every result: it must be meant.
    assert first.fingerprint == other.fingerprint == "aacae6095eea7844"
    assert larger.fingerprint != first.fingerprint
    assert larger.train.images.shape[2:] == (48, 48)
    assert larger.train.images.dtype == torch.uint8


def test_load_takes_a_config_and_names_its_mistakes():
    dataset = data.load(TrialConfig(dataset="emoji120", fold=4, image_size=16))
    assert "family twemoji" in dataset.fold_note
    assert dataset.test.images.shape == (120, 3, 16, 16)
    assert data.load(TrialConfig(fold=4), fold=1).fold_note == data.load("emoji120", fold=1).fold_note
    with pytest.raises(DataError, match="6 folds"):
        data.load("emoji120", fold=6)
    with pytest.raises(DataError, match="did you mean 'emoji120'"):
        data.load("emoji12")
    with pytest.raises(DataError, match="no such folder"):
        data.load("./absent")
    with pytest.raises(DataError, match="can't be read"):
        data.load("absent.npz")


# ---------------------------------------------------------------------- the build
def test_rendering_trims_centres_and_lays_on_white():
    pytest.importorskip("resvg_py")
    image = drawings.render(SVG, 32)
    assert image.shape == (3, 32, 32)
    ink = (image[1] < 128).nonzero()
    assert (ink[0].min(), ink[0].max()) == (1, 30)  # 30 pixels high with a margin of 1
    assert 7 <= np.ptp(ink[1]) + 1 <= 8  # a quarter as wide
    assert abs((ink[1].min() + ink[1].max()) / 2 - 15.5) <= 0.5
    assert image[:, 16, 16].tolist() == [255, 0, 0]
    assert image[:, 16, 2].tolist() == [255, 255, 255]
    with pytest.raises(DataError, match="nothing was drawn"):
        drawings.render(SVG.replace("rect", "defs"), 32)


def test_equal_arrays_give_equal_bytes(tmp_path):
    arrays = {"images": np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2), "classes": np.array(["owl"])}
    first, second = (drawings.write(tmp_path / name, arrays).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second
    with np.load(tmp_path / "a.npz") as archive:
        assert {key: archive[key].tolist() for key in archive} == {key: a.tolist() for key, a in arrays.items()}


def icons(*names, chars=None, aliases=None):
    return emoji120_build._Icons({n: {"body": f"<g id='{n}'/>"} for n in names}, aliases or {}, chars or {}, 16, 16)


def test_an_icon_is_found_by_code_point_then_by_the_names_other_sets_give_it():
    row = {"codepoint": "23f0", "fine": "alarm", "coarse": "time", "category": "c"}
    noto = icons("alarm-clock", chars={"23f0": "alarm-clock"})
    names = emoji120_build._candidate_names(row, [noto])
    assert names == ["alarm-clock", "alarm", "alarmclock"]
    squeezed, aliased = icons("alarmclock"), icons("clock", aliases={"alarm-clock": {"parent": "clock"}})
    turned = icons("clock", aliases={"alarm-clock": {"parent": "clock", "hFlip": True}})
    fxemoji = next(s for s in emoji120_build.SETS if s.name == "fxemoji")
    assert "id='alarmclock'" in emoji120_build._drawing(fxemoji, squeezed, row, names)
    assert "id='clock'" in emoji120_build._drawing(fxemoji, aliased, row, names)
    assert emoji120_build._drawing(fxemoji, turned, row, names) is None  # a mirrored picture is another one
    with pytest.raises(DataError, match=r"fxemoji 1\.2\.2 has no icon for 'alarm'"):
        emoji120_build._drawing(fxemoji, turned, {**row, "sources": "noto|fxemoji"}, names)
    assert emoji120_build._drawing(fxemoji, squeezed, {**row, "sources": "noto"}, names) is None


def test_another_tarball_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    def packed(command, *, cwd, **more):
        (cwd / "noto.tgz").write_bytes(b"not what npm published")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", packed)
    with pytest.raises(DataError, match=r"@iconify-json/noto@1\.2\.9: the tarball is sha512-"):
        emoji120_build.build(tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_what_the_build_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="npm client"):
        emoji120_build.build(tmp_path / "out.npz")
    (tmp_path / "list.csv").write_text("codepoint,fine\n1f427,penguin\n")
    with pytest.raises(DataError, match="no column category, coarse"):
        emoji120_build.build(tmp_path / "out.npz", classes_csv=tmp_path / "list.csv")


@pytest.mark.network
@pytest.mark.slow
def test_the_build_makes_the_shipped_file_again(registry, tmp_path, arrays):
    path = emoji120_build.build(tmp_path / "emoji120.npz")
    with np.load(path) as archive:
        again = dict(archive)
    assert set(again) == set(arrays)
    for key, values in arrays.items():
        assert np.array_equal(again[key], values), key
    rebuilt = data.load(str(path), fold=1)
    assert rebuilt.fingerprint == data.load("emoji120", fold=1).fingerprint


@pytest.mark.network
@pytest.mark.slow
def test_the_build_makes_other_sizes_and_class_lists(registry, tmp_path):
    rows = (
        "codepoint,fine,coarse,category\n1f427,penguin,bird,animal\n1f528,hammer,tool,object\n1f989,owl,bird,animal\n"
    )
    (tmp_path / "list.csv").write_text(rows)
    four = [s for s in emoji120_build.SETS if s.name in ("fxemoji", "fluent-emoji-flat", "twemoji", "emojione")]
    path = emoji120_build.build(tmp_path / "three.npz", size=64, classes_csv=tmp_path / "list.csv", sets=four)
    assert data.folds(str(path)) == 4
    dataset = data.load(str(path), fold=3)
    assert (dataset.name, dataset.taxonomy.names) == ("three", ("penguin", "hammer", "owl"))
    assert dataset.train.images.shape[1:] == (3, 64, 64)
    assert "tests family emojione, validates on fxemoji" in dataset.fold_note
    assert len(dataset.val) == 2  # fxemoji draws no owl

"""icons158: what the shipped file holds, that no image of a test set is elsewhere, and that it is built again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from laresa import data
from laresa.data import icons158, icons158_build
from laresa.data.icons158_build import GROUPS, LICENCES, NEAR, PER_FAMILY, IconSet, families_of, plain, spellings
from laresa.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def arrays():
    return icons158._read(None)


def test_the_file_is_158_classes_in_20_groups_by_a_hundred_vendors(arrays):
    assert (len(arrays["classes"]), len(set(arrays["coarse"].tolist()))) == (158, 20)
    assert arrays["images"].dtype == np.uint8
    assert arrays["images"].shape == (len(arrays["labels"]), 32, 32)
    assert 9000 < len(arrays["labels"]) < 10_000
    assert len(set(arrays["families"].tolist())) > 100
    assert min(Counter(arrays["labels"].tolist()).values()) >= 15
    assert (ROOT / "laresa" / "data" / "icons158.npz").stat().st_size < 3.4e6


def test_every_licence_is_permissive_and_every_set_has_its_credit(arrays):
    assert set(arrays["licences"].tolist()) <= set(LICENCES)
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    credited = icons158.credits()
    assert {line.split(":")[0] for line in credited} == set(arrays["sets"].tolist())
    assert [line for line in credited if line not in notice] == []


def test_a_vendor_stands_in_one_group_and_draws_a_class_thrice_at_most(arrays):
    groups = set(zip(arrays["families"].tolist(), arrays["groups"].tolist(), strict=True))
    assert len(groups) == len({family for family, _ in groups})
    assert max(Counter(zip(arrays["families"].tolist(), arrays["labels"].tolist(), strict=True)).values()) == PER_FAMILY


def test_no_two_images_of_a_class_are_near_copies_across_groups(arrays):
    pixels = arrays["images"].reshape(len(arrays["labels"]), -1).astype(np.float32)
    for label in range(158):
        rows = np.flatnonzero(arrays["labels"] == label)
        apart = np.abs(pixels[rows][:, None] - pixels[rows][None]).mean(-1) / 255
        elsewhere = arrays["groups"][rows][:, None] != arrays["groups"][rows][None]
        assert apart[elsewhere].min() >= NEAR, arrays["classes"][label]


def test_ten_test_sets_have_no_image_in_common_and_the_eleventh_is_for_settings(arrays):
    folds = [data.load("icons158", fold=fold) for fold in range(11)]
    assert data.folds("icons158") == GROUPS == 11
    assert sum(len(fold.test) for fold in folds) == len(arrays["labels"])
    assert len({fold.test_fingerprint for fold in folds}) == 11
    for number, fold in enumerate(folds):
        assert len(fold.train) + len(fold.val) + len(fold.test) == len(arrays["labels"])
        assert len(set(fold.test.labels.tolist())) > 120
        assert set(fold.train.labels.tolist()) == set(range(158))
        group = arrays["groups"] == (number + 1) % 10  # the next one, but never the eleventh
        assert torch.equal(fold.val.images[:, 0], torch.from_numpy(arrays["images"][group]))
        assert f"tests group {number} " in fold.fold_note
    assert folds[0].taxonomy.names[:2] == ("cat", "dog")
    assert folds[0].train.images.shape[1:] == (3, 32, 32)
    assert data.load("icons158", image_size=48).test.images.shape[1:] == (3, 48, 48)
    with pytest.raises(DataError, match="icons158 has 11 folds"):
        data.load("icons158", fold=11)


# ---------------------------------------------------------------------- the build
@pytest.mark.parametrize(
    ("icon", "meant"),
    [
        ("home-2-fill", "home"),
        ("house-outline-24", "home"),
        ("mail", "envelope"),
        ("cats", "cat"),
        ("icecream", "ice cream"),
    ],
)
def test_names_mean_a_class_without_words_of_style(icon: str, meant: str, arrays):
    classes = arrays["classes"].tolist()
    assert classes[spellings(classes)[plain(icon)]] == meant


@pytest.mark.parametrize("icon", ["home-plus", "cat-off", "folder-open", "lock-keyhole-slash"])
def test_names_with_another_word_mean_nothing(icon: str, arrays):
    assert plain(icon) not in spellings(arrays["classes"].tolist())


def test_sets_of_one_author_or_one_stem_are_of_one_family():
    sets = [
        IconSet(prefix, prefix, author, "MIT", "")
        for prefix, author in (("a", "A"), ("fa-solid", "F"), ("fa6-solid", "G"), ("z-line", "A"), ("b", "B"))
    ]
    assert families_of(sets) == {"a": "a", "fa-solid": "fa-solid", "fa6-solid": "fa-solid", "z-line": "a", "b": "b"}


def test_a_file_is_read_by_the_data_set_that_it_is_a_build_of(tmp_path: Path):
    with pytest.raises(DataError, match="can't be read"):
        data.load(str(tmp_path / "gone.npz"))
    np.savez(tmp_path / "half.npz", groups=np.zeros(1))
    with pytest.raises(DataError, match="no build of icons158: no array classes, coarse, credits"):
        data.load(str(tmp_path / "half.npz"))


@pytest.mark.network
@pytest.mark.slow
def test_the_build_makes_the_shipped_file_again(registry, tmp_path: Path):
    path = icons158_build.build(tmp_path / "again.npz")
    assert path.read_bytes() == (ROOT / "laresa" / "data" / "icons158.npz").read_bytes()
    assert data.load(str(path)).fingerprint == data.load("icons158").fingerprint

"""Parts of the training images: so many of each class, nested, drawn by the data's seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from laresa import data
from laresa.config import TrialConfig
from laresa.data.dataset import Dataset
from laresa.data.subset import cut, rows
from laresa.errors import ConfigError
from tests.laresa.checks import few, seeds

labels = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)
shares = st.floats(0.001, 1.0)


def counts(y_N: NDArray[np.int64], kept_N: NDArray[np.int64]) -> dict[int, int]:
    return {int(label): int((y_N[kept_N] == label).sum()) for label in np.unique(y_N)}


@few
@given(y_N=labels, first=shares, second=shares, seed=seeds, fold=st.integers(0, 5))
def test_shares_are_nested_of_the_right_size_and_repeatable(
    y_N: NDArray[np.int64], first: float, second: float, seed: int, fold: int
) -> None:
    small, large = (rows(y_N, fraction=share, seed=(seed, fold)) for share in sorted((first, second)))
    assert set(small) <= set(large)
    for share, kept_N in zip(sorted((first, second)), (small, large), strict=True):
        assert np.all(np.diff(kept_N) > 0), "ascending, none twice"
        assert np.array_equal(kept_N, rows(y_N, fraction=share, seed=(seed, fold)))
        for label, kept in counts(y_N, kept_N).items():
            exact = share * int((y_N == label).sum())
            assert kept >= 1
            assert abs(kept - exact) < 1 + 1e-9, (label, kept, exact)
    assert np.array_equal(rows(y_N, fraction=1.0, seed=(seed, fold)), np.arange(len(y_N)))


@few
@given(y_N=labels, shots=st.integers(1, 20), more=st.integers(0, 20), seed=seeds)
def test_shots_are_nested_and_at_most_so_many(y_N: NDArray[np.int64], shots: int, more: int, seed: int) -> None:
    small, large = (rows(y_N, shots=count, seed=(seed, 0)) for count in (shots, shots + more))
    assert set(small) <= set(large)
    assert counts(y_N, small) == {int(c): min(shots, int((y_N == c).sum())) for c in np.unique(y_N)}


@few
@given(y_N=labels, shots=st.integers(1, 20), share=shares, seed=seeds)
def test_of_a_class_the_fewer_lie_within_the_more_of_either_kind(
    y_N: NDArray[np.int64], shots: int, share: float, seed: int
) -> None:
    both = rows(y_N, shots=shots, seed=(seed, 0)), rows(y_N, fraction=share, seed=(seed, 0))
    for label in np.unique(y_N):
        few_of, many_of = sorted((set(kept[y_N[kept] == label]) for kept in both), key=len)
        assert few_of <= many_of


@few
@given(classes=st.integers(1, 12), each=st.integers(2, 30), share=st.floats(0.1, 1.0), seed=seeds)
def test_the_share_of_classes_of_one_size_is_right_in_sum(classes: int, each: int, share: float, seed: int) -> None:
    y_N = np.repeat(np.arange(classes), each)
    kept = counts(y_N, rows(y_N, fraction=share, seed=(seed, 0)))
    expected = max(share * classes * each, classes)  # one a class at least
    assert abs(sum(kept.values()) - expected) <= (1 if share * each >= 1 else classes)


def test_seed_and_fold_draw_other_images() -> None:
    y_N = np.repeat(np.arange(5), 40)
    drawn = {tuple(rows(y_N, shots=8, seed=seed).tolist()) for seed in ((42, 0), (42, 1), (43, 0))}
    assert len(drawn) == 3
    per_class = [rows(y_N, shots=8, seed=(42, 0))[8 * c : 8 * c + 8] - 40 * c for c in range(5)]
    assert len({tuple(kept.tolist()) for kept in per_class}) == 5, "one draw for all classes"


def test_only_the_training_images_are_cut(tiny: Dataset) -> None:
    part = cut(tiny, fraction=None, shots=3, seed=(42, 0))
    kept = rows(tiny.train.labels.numpy(), shots=3, seed=(42, 0))
    assert part.train.images.equal(tiny.train.images[kept])
    assert part.train.labels.bincount().tolist() == [3] * 6
    assert part.fold_note.endswith("trains on 18 of 50 images")
    assert (part.val, part.test, part.mean, part.fingerprint) == (tiny.val, tiny.test, tiny.mean, tiny.fingerprint)
    assert cut(tiny, fraction=None, shots=None, seed=(42, 0)) is tiny


def test_a_configuration_says_which_part_it_trains_on() -> None:
    whole, one = TrialConfig(fold=1), TrialConfig(fold=1, shots=1)
    full, few_shot = data.load(whole), data.load(one)
    assert len(few_shot.train) == full.taxonomy.leaves
    assert few_shot.test.images.equal(full.test.images)
    assert len(data.load(TrialConfig(fold=1, train_fraction=0.5)).train) == pytest.approx(len(full.train) / 2, abs=60)
    again = data.load(TrialConfig(fold=1, shots=1, seed=7))
    assert again.train.images.equal(few_shot.train.images), "the trial's seed draws other images"
    assert not data.load(TrialConfig(fold=1, shots=1, split_seed=7)).train.images.equal(few_shot.train.images)
    keys = [data.data_key(config) for config in (whole, one, TrialConfig(fold=1, train_fraction=0.5))]
    assert len(set(keys)) == 3, "what is kept between trials is found by its key"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_fraction": 0.0}, r"train_fraction=0.0: expected greater than 0"),
        ({"train_fraction": 1.5}, r"train_fraction=1.5: expected less than or equal to 1"),
        ({"shots": 0}, r"shots=0: expected greater than 0"),
        ({"shots": 5, "train_fraction": 0.5}, r"shots=5 and train_fraction=0.5 both cut .*expected one of them"),
    ],
)
def test_a_part_that_is_none_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrialConfig(**fields).signature()

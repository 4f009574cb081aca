"""Ridge: scikit-learn's numbers from one eigendecomposition; and what heads on real features must reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from laresa.config import TrialConfig
from laresa.data import load
from laresa.errors import ConfigError, DataError
from laresa.features import PACKAGED, FeatureConfig, Features, features_of
from laresa.features.ridge import ridge
from laresa.methods.heads import Heads


def drawn(rows: int, width: int) -> tuple[Features, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(rows)
    y_N = torch.arange(rows) % 4
    x_NF = torch.randn(rows, width, generator=draw) + torch.randn(4, width, generator=draw)[y_N]
    part = rows // 4
    return Features(x_NF, x_NF[:part], x_NF[-part:], key="drawn", weights="none"), y_N, x_NF


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (24, 40)])
def test_as_scikit_learn(rows: int, width: int):
    from sklearn.linear_model import Ridge

    features, y_N, x_NF = drawn(rows, width)
    part = rows // 4
    found = ridge(features, y_N, y_N[:part], y_N[-part:], l2s=(1e-3, 1e-1))
    assert set(found.val_top1_by_l2) == {1e-3, 1e-1}
    x = x_NF.double().numpy()
    total = ((x - x.mean(0)) ** 2).sum()
    expected = Ridge(alpha=found.l2 * total).fit(x, np.eye(4)[y_N.numpy()])
    assert np.allclose(found.weight_FC.numpy(), expected.coef_.T, rtol=1e-6, atol=1e-9)
    assert np.allclose(found.bias_C.numpy(), expected.intercept_, rtol=1e-6, atol=1e-9)
    hits = (expected.predict(x[-part:]).argmax(1) == y_N[-part:].numpy()).mean()
    assert found.test_top1 == pytest.approx(hits)


def test_bad_input():
    features, y_N, x_NF = drawn(24, 5)
    labels = (y_N, y_N[:6], y_N[-6:])
    with pytest.raises(ConfigError, match=r"l2s=\[0\.0\]: expected numbers above 0"):
        ridge(features, *labels, l2s=(0.0,))
    with pytest.raises(DataError, match="ridge, val: 6 rows of features, 5 labels"):
        ridge(features, y_N, y_N[:5], y_N[-6:])
    with pytest.raises(DataError, match="ridge, test: features that are not finite"):
        ridge(Features(x_NF, x_NF[:6], x_NF[-6:] * float("nan"), "bad", "none"), *labels)
    with pytest.raises(DataError, match="all training images are the same"):
        ridge(Features(torch.ones(24, 5), x_NF[:6], x_NF[-6:], "same", "none"), *labels)


@pytest.mark.slow
def test_heads_reach_it_on_real_features(tmp_path: Path, one_thread: None):
    """The embedded data, the packaged network: far above chance (1 in 120), and cross-entropy is as good."""
    config = TrialConfig(
        method="heads", backbone=PACKAGED, input_size=64, subset="ce", epochs=8, batch_size=32, lr=1e-3
    )
    data = load(config)
    features = features_of(data, PACKAGED, FeatureConfig(), size=64, root=tmp_path)
    closed = ridge(features, data.train.labels, data.val.labels, data.test.labels)
    group = Heads([config], data, torch.device("cpu"), features=features)
    while not all(group.done):
        group.epoch()
    found = group.result(0).metrics
    assert closed.test_top1 > 0.7
    assert found["test/top1"] > closed.test_top1 - 0.05
    assert found["best/val/top1"] > closed.val_top1 - 0.05

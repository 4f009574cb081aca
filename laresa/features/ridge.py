"""An instant baseline of a fold's features: ridge regression, every L2 from one eigendecomposition.

    W_FC = argmin |T - X W|^2 / N + l2 v |W|^2      X_NF features, T_NC one-hot classes, both centred; v = |X|^2 / N

l2 counts in units of the features' total variance v, so that one list fits every network. With X^T X = V diag(s) V^T:
W = V (s + l2 |X|^2)^-1 V^T X^T T, a division by L2 (Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from laresa.errors import ConfigError, DataError
from laresa.features import Features
from laresa.metrics import top1

L2S = tuple(10 ** (half / 2) for half in range(-12, 5))  # 1e-6 to 100


@dataclass(frozen=True)
class Ridge:
    """l2: best on validation, of equally good ones the largest. test_top1: measured once, with it.

    val_top1_by_l2: of every L2 asked for. weight_FC, bias_C: float64.
    """

    l2: float
    val_top1: float
    test_top1: float
    val_top1_by_l2: Mapping[float, float]
    weight_FC: Tensor
    bias_C: Tensor

    def logits(self, features_NF: Tensor) -> Tensor:
        """logits_NC, float64."""
        return features_NF.double() @ self.weight_FC + self.bias_C


def ridge(
    features: Features, train_y_N: Tensor, val_y_N: Tensor, test_y_N: Tensor, *, l2s: Sequence[float] = L2S
) -> Ridge:
    """Fitted on the training part, its L2 chosen by validation top-1. Labels: int64 [N] of each part.

    ConfigError: no L2, or one that is not above 0. DataError: labels for other rows, features that are not finite or
    the same for every training image.
    """
    if not l2s or not all(0 < l2 < float("inf") for l2 in l2s):
        raise ConfigError(f"l2s={list(l2s)}: expected numbers above 0, one at least")
    parts = ((features.train_NF, train_y_N), (features.val_NF, val_y_N), (features.test_NF, test_y_N))
    for name, (part_NF, y_N) in zip(("train", "val", "test"), parts, strict=True):
        if len(part_NF) != len(y_N) or len(y_N) == 0:
            raise DataError(
                f"ridge, {name}: {len(part_NF)} rows of features, {len(y_N)} labels: expected as many, not 0"
            )
        if not part_NF.isfinite().all():
            raise DataError(f"ridge, {name}: features that are not finite")
    classes = 1 + max(int(y_N.max()) for _, y_N in parts)
    target_NC = nn.functional.one_hot(train_y_N, classes).double()
    mean_F, mean_C = features.train_NF.mean(0, dtype=torch.float64), target_NC.mean(0)
    x_NF = features.train_NF.double() - mean_F
    total = x_NF.square().sum()
    if total == 0:
        raise DataError("ridge: the features of all training images are the same")
    value_R, basis_FR, target_RC = _spectrum(x_NF, target_NC - mean_C)
    val_NR = (features.val_NF.double() - mean_F) @ basis_FR
    shrunk = {l2: target_RC / (value_R + l2 * total)[:, None] for l2 in l2s}
    found = {l2: top1(val_NR @ shrunk_RC + mean_C, val_y_N) for l2, shrunk_RC in shrunk.items()}
    best = max(found, key=lambda l2: (found[l2], l2))
    weight_FC = basis_FR @ shrunk[best]
    bias_C = mean_C - mean_F @ weight_FC
    test_top1 = top1(features.test_NF.double() @ weight_FC + bias_C, test_y_N)
    return Ridge(best, found[best], test_top1, found, weight_FC, bias_C)


def _spectrum(x_NF: Tensor, target_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(value_R, basis_FR, target_RC) with W(l) = basis_FR diag(1 / (value_R + l)) target_RC for every l.

    Of X^T X, or where there are fewer rows than features of X X^T: X^T (X X^T + l)^-1 T is the same W.
    """
    rows, width = x_NF.shape
    if rows < width:
        value_N, vector_NN = torch.linalg.eigh(x_NF @ x_NF.T)
        return value_N.clamp_min(0), x_NF.T @ vector_NN, vector_NN.T @ target_NC
    value_F, vector_FF = torch.linalg.eigh(x_NF.T @ x_NF)
    return value_F.clamp_min(0), vector_FF, vector_FF.T @ (x_NF.T @ target_NC)

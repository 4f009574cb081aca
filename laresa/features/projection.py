"""What is made of kept features for one fold: rows of length 1, principal components of its training part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from laresa.errors import ConfigError


def project(parts: Sequence[Tensor], *, l2: bool, pca: int | None) -> list[Tensor]:
    """float32 [N, F or pca] of each part, the training part first: it alone decides the components.

    l2: rows of length 1, before the components are taken; a row of zeros stays one.
    """
    if l2:
        parts = [nn.functional.normalize(part_NF, dim=1) for part_NF in parts]
    if pca is None:
        return list(parts)
    mean_F, direction_FP = principal(parts[0], pca)
    return [((part_NF.double() - mean_F) @ direction_FP).float() for part_NF in parts]


def principal(train_NF: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(mean_F, direction_FP): the `count` orthonormal directions of largest variance, largest first, in float64.

    Each has its entry of largest size positive, so that the same rows give the same components.
    ConfigError: so few rows or features have fewer components.
    """
    rows, width = train_NF.shape
    most = max(0, min(rows - 1, width))
    if count > most:
        raise ConfigError(f"pca={count}: {rows} training images of {width} features have {most} components at most")
    mean_F = train_NF.mean(0, dtype=torch.float64)
    centred_NF = train_NF.double() - mean_F
    _, direction_FF = torch.linalg.eigh(centred_NF.T @ centred_NF)
    direction_FP = direction_FF[:, -count:].flip(1)
    largest_1P = direction_FP.abs().argmax(0, keepdim=True)
    return mean_F, direction_FP * direction_FP.gather(0, largest_1P).sign()

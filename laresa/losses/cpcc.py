"""CPCC: distances between class means follow distances in the tree; no text is read.

Source: Zeng et al., "Learning Structured Representations by Embedding Class Hierarchy", ICLR 2023,
https://openreview.net/forum?id=7J-30ilaUZM. Shapes: N samples, D latent dimensions, C classes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laresa.terms import Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy


def cpcc_loss(z_ND: Tensor, target_NC: Tensor, tree: Taxonomy) -> Tensor:
    """1 - Pearson(|m_i - m_j|, d_ij) over the pairs i < j of classes that the batch has, a scalar. CPCC Eq. 1 and 2.

    m: mean latent of a class in the batch, by its shares of the samples where images were mixed (target_NC). d: edges
    between the two in the tree. Where either side does not vary (two classes, siblings only) it is 1, without gradient.
    """
    count_C = target_NC.sum(0)
    there_C = count_C > 0
    middle_D = z_ND.mean(0)  # distances do not see it; float32 does
    mean_CD = (target_NC.T @ (z_ND - middle_D)) / torch.where(there_C, count_C, 1.0)[:, None]
    square_C = mean_CD.square().sum(1)
    both_CC = square_C[:, None] + square_C
    square_CC = both_CC - 2 * mean_CD @ mean_CD.T
    apart_CC = square_CC > both_CC * torch.finfo(z_ND.dtype).eps  # less is rounding
    latent_CC = torch.where(apart_CC, torch.where(apart_CC, square_CC, 1.0).sqrt(), 0.0)
    pair_CC = (there_C[:, None] & there_C).triu(1).to(z_ND.dtype)
    return 1 - _pearson(latent_CC, _distances(tree, z_ND.device, z_ND.dtype), pair_CC)


def cpcc(batch: Batch) -> Tensor:
    """`cpcc_loss`. CPCC Eq. 1 and 2."""
    return cpcc_loss(batch.z_ND, batch.target_NC, batch.tree)


def _pearson(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Of the entries with weight 1; 0 where one of the two does not vary."""
    count = weight.sum().clamp_min(1)
    a, b = ((x - (x * weight).sum() / count) * weight for x in (a, b))
    square = (a * a).sum() * (b * b).sum()
    varies = square > torch.finfo(a.dtype).tiny
    return torch.where(varies, (a * b).sum() / torch.where(varies, square, 1.0).sqrt(), 0.0)


@lru_cache(maxsize=64)
def _distances(tree: Taxonomy, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(tree.distance_CC, device=device, dtype=dtype)


TERMS = {"cpcc": Term(cpcc, tree=True, labels=False)}

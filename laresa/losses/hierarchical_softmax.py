"""Hierarchical softmax: a softmax among siblings, and a class's probability the product along its path.

Source: Redmon and Farhadi, YOLO9000, CVPR 2017, https://arxiv.org/abs/1612.08242, sec. 4 (WordTree).
Shapes: N samples, C classes (leaves), V tree nodes (leaves first), S nodes on the longest path, F families.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from laresa.terms import Head, Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy


def hierarchical_softmax_loss(logits_NV: Tensor, y_N: Tensor, tree: Taxonomy) -> Tensor:
    """- sum_v log p(v | its parent) over the path of the class, per sample (N); a softmax among each node's siblings.

    logits_NV: one logit a NODE. Tops are siblings of one another; a single top has probability 1.
    """
    path_NS = _paths(tree, y_N.device)[y_N]
    return -_log_conditional(logits_NV, tree).gather(-1, path_NS).sum(-1)


def hierarchical_softmax(batch: Batch) -> Tensor:
    """`hierarchical_softmax_loss`, per sample (N); under mixed targets the mean over their shares."""
    if not batch.mixed:
        return hierarchical_softmax_loss(batch.logits, batch.y_N, batch.tree)
    return -(batch.target_NC * _log_leaf(batch.logits, batch.tree)).sum(-1)


def _log_conditional(logits: Tensor, tree: Taxonomy) -> Tensor:
    """log p(v | its parent), ... x V and a column of zeros: a log_softmax in each family."""
    family_V, families = _families(tree, logits.device)
    x_VN = logits.movedim(-1, 0)
    family_VN = family_V.reshape(-1, *[1] * (x_VN.ndim - 1)).expand_as(x_VN)
    lowest = torch.finfo(x_VN.dtype).min
    top_FN = torch.full_like(x_VN[:1], lowest).expand(families, *x_VN.shape[1:])
    top_FN = top_FN.scatter_reduce(0, family_VN, x_VN.detach(), "amax")
    away_VN = x_VN - top_FN.index_select(0, family_V)
    sum_FN = torch.zeros_like(top_FN).index_add(0, family_V, away_VN.exp())
    log_p_VN = away_VN - sum_FN.log().index_select(0, family_V)
    return torch.cat((log_p_VN, torch.zeros_like(log_p_VN[:1]))).movedim(0, -1)


def _log_leaf(logits: Tensor, tree: Taxonomy) -> Tensor:
    """log p of the classes: the product of the conditional probabilities along each path."""
    log_p, paths_CS = _log_conditional(logits, tree), _paths(tree, logits.device)
    log_leaf = log_p.index_select(-1, paths_CS[:, 0])
    for node_C in paths_CS.T[1:]:
        log_leaf = log_leaf + log_p.index_select(-1, node_C)
    return log_leaf


@lru_cache(maxsize=64)
def _families(tree: Taxonomy, device: torch.device) -> tuple[Tensor, int]:
    """(V numbers, the same for siblings; how many there are)."""
    parents, family_V = np.unique(tree.parents, return_inverse=True)
    return torch.as_tensor(family_V, device=device), len(parents)


@lru_cache(maxsize=64)
def _paths(tree: Taxonomy, device: torch.device) -> Tensor:
    """C x S node numbers; V, where a path has ended."""
    return torch.as_tensor(np.where(tree.paths_CS < 0, len(tree.parents), tree.paths_CS), device=device)


def _nodes(tree: Taxonomy) -> int:
    return len(tree.parents)


TERMS = {
    "hierarchical_softmax": Term(hierarchical_softmax, base=Head(_nodes, _log_leaf), tree=True, labels=False),
}

"""HXE and soft labels: two ways to make better mistakes.

Source: Bertinetto et al., "Making Better Mistakes", CVPR 2020, https://arxiv.org/abs/1912.09393.
Shapes: N samples, C classes (leaves), V tree nodes (leaves first), S nodes on the longest path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from laresa.fields import Doc, Range
from laresa.losses.cross_entropy import CLASSES
from laresa.losses.tree import along_paths, log_masses, on_nodes, once_a_tree, over_nodes, soft_labels, steps_SC
from laresa.terms import Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy


def hxe_loss(logits_NC: Tensor, y_N: Tensor, tree: Taxonomy, *, alpha: float) -> Tensor:
    """- sum_l lambda_l log(a_l / a_{l+1}) along the path from the leaf (l = 0), per sample (N). Eq. 4 of the paper.

    lambda falls with the depth from the root as exp(-alpha * depth). Normalised so that the leaf edge has weight 1:
    lambda_l = exp(alpha * l), and a learning rate means the same for every alpha. alpha = 0 is cross-entropy.
    Mass above the top node is 1 (the last edge of a tree without root; it adds nothing where there is one).
    """
    weight_SC = _hxe_weights(tree, alpha, logits_NC.device, logits_NC.dtype)
    return along_paths(log_masses(logits_NC, tree), y_N, weight_SC, tree)


def soft_label_loss(logits_NC: Tensor, y_N: Tensor, tree: Taxonomy, *, beta: float) -> Tensor:
    """- sum_j t_j log p_j with t_j ~ exp(-beta d(j, y) / d_max), per sample (N). Eq. 6 of the paper.

    d: height of the lowest common ancestor, d_max its largest value. A great beta gives cross-entropy.
    """
    target_CC = soft_labels(tree, beta, logits_NC.device, logits_NC.dtype)
    return -(target_CC[y_N] * logits_NC.log_softmax(-1)).sum(-1)


def hxe(
    batch: Batch,
    *,
    alpha: Annotated[float, Ge(0), Range(0.0, 1.0), Doc("how steeply weights fall towards the leaves")] = 0.1,
) -> Tensor:
    """`hxe_loss`, per sample (N); under mixed targets the mean over their shares."""
    if not batch.mixed:
        return hxe_loss(batch.logits, batch.y_N, batch.tree, alpha=alpha)
    weight_SC = _hxe_weights(batch.tree, alpha, batch.logits.device, batch.logits.dtype)
    weight_NV = batch.target_NC @ on_nodes(weight_SC, batch.tree)
    return over_nodes(log_masses(batch.logits, batch.tree), weight_NV)


def soft_label(
    batch: Batch,
    *,
    beta: Annotated[float, Ge(0), Range(1.0, 50.0, log=True), Doc("how quickly a target falls with distance")] = 10.0,
) -> Tensor:
    """`soft_label_loss`, per sample (N); under mixed targets the mean over their shares."""
    if not batch.mixed:
        return soft_label_loss(batch.logits, batch.y_N, batch.tree, beta=beta)
    target_CC = soft_labels(batch.tree, beta, batch.logits.device, batch.logits.dtype)
    return -((batch.target_NC @ target_CC) * batch.logits.log_softmax(-1)).sum(-1)


@once_a_tree
def _hxe_weights(tree: Taxonomy, alpha: Tensor, device: torch.device) -> Tensor:
    """Weight of each -log a_v of a class's path, S x C: the edges' sum written by nodes, lambda_s - lambda_{s-1}."""
    steps_S1, there_SC = steps_SC(tree, device)
    node_S1 = torch.exp(alpha * steps_S1) - torch.where(steps_S1 > 0, torch.exp(alpha * (steps_S1 - 1)), 0.0)
    return torch.where(there_SC, node_S1, 0.0)


TERMS = {
    "hxe": Term(hxe, base=CLASSES, tree=True, labels=False),
    "soft_label": Term(soft_label, base=CLASSES, tree=True, labels=False),
}

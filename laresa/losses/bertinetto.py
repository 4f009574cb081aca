"""HXE and soft labels: two ways to make better mistakes.

Source: Bertinetto et al., "Making Better Mistakes", CVPR 2020, https://arxiv.org/abs/1912.09393.
Shapes: N samples, C classes (leaves), V tree nodes (leaves first).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import pad

from laresa.fields import Doc, Range
from laresa.losses.cross_entropy import CLASSES
from laresa.losses.tree import log_masses, once_a_tree
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
    return -(_hxe_weights(tree, alpha, logits_NC.device, logits_NC.dtype)[y_N] * _leaf_masses(logits_NC, tree)).sum(-1)


def soft_label_loss(logits_NC: Tensor, y_N: Tensor, tree: Taxonomy, *, beta: float) -> Tensor:
    """- sum_j t_j log p_j with t_j ~ exp(-beta d(j, y) / d_max), per sample (N). Eq. 6 of the paper.

    d: height of the lowest common ancestor, d_max its largest value. A great beta gives cross-entropy.
    """
    target_CC = _soft_labels(tree, beta, logits_NC.device, logits_NC.dtype)
    return -(target_CC[y_N] * logits_NC.log_softmax(-1)).sum(-1)


def hxe(
    batch: Batch,
    *,
    alpha: Annotated[float, Ge(0), Range(0.0, 1.0), Doc("how steeply weights fall towards the leaves")] = 0.1,
) -> Tensor:
    """`hxe_loss`, per sample (N); under mixed targets the mean over their shares."""
    if not batch.mixed:
        return hxe_loss(batch.logits, batch.y_N, batch.tree, alpha=alpha)
    weight_CV = _hxe_weights(batch.tree, alpha, batch.logits.device, batch.logits.dtype)
    return -((batch.target_NC @ weight_CV) * _leaf_masses(batch.logits, batch.tree)).sum(-1)


def soft_label(
    batch: Batch,
    *,
    beta: Annotated[float, Ge(0), Range(1.0, 50.0, log=True), Doc("how quickly a target falls with distance")] = 10.0,
) -> Tensor:
    """`soft_label_loss`, per sample (N); under mixed targets the mean over their shares."""
    if not batch.mixed:
        return soft_label_loss(batch.logits, batch.y_N, batch.tree, beta=beta)
    target_CC = _soft_labels(batch.tree, beta, batch.logits.device, batch.logits.dtype)
    return -((batch.target_NC @ target_CC) * batch.logits.log_softmax(-1)).sum(-1)


def _leaf_masses(logits_NC: Tensor, tree: Taxonomy) -> Tensor:
    """log a_NV under a softmax over leaves: internal nodes have no mass of their own."""
    inner = len(tree.parents) - tree.leaves
    return log_masses(pad(logits_NC.log_softmax(-1), (0, inner), value=-torch.inf), tree)


@once_a_tree
def _hxe_weights(tree: Taxonomy, alpha: Tensor, device: torch.device) -> Tensor:
    """Weight of each -log a_v, C x V: the edges' sum written by nodes, lambda_l - lambda_{l-1}."""
    steps_CV = torch.tensor(tree.steps_CV, device=device)
    up_CV = steps_CV.clamp_min(0).double()
    node_CV = torch.exp(alpha * up_CV) - torch.where(steps_CV > 0, torch.exp(alpha * (up_CV - 1)), 0.0)
    return torch.where(steps_CV >= 0, node_CV, 0.0)


@once_a_tree
def _soft_labels(tree: Taxonomy, beta: Tensor, device: torch.device) -> Tensor:
    """Row t: the soft target of leaf t, C x C."""
    distance_CC = torch.tensor(tree.lca_VV[: tree.leaves, : tree.leaves], dtype=torch.float64, device=device)
    return torch.softmax(-beta * distance_CC / distance_CC.max().clamp_min(1), 1)


TERMS = {
    "hxe": Term(hxe, base=CLASSES, tree=True, labels=False),
    "soft_label": Term(soft_label, base=CLASSES, tree=True, labels=False),
}

"""Hierarchy-aware cross-entropy: one logit a node, mass passed up the tree, the target diluted along the path.

Source: HACE, https://arxiv.org/abs/2605.06274, and its authors' code (github.com/Kidara/hierarchy-aware-cross-entropy,
commit d213e80), whose comments cite the equations. Shapes: N samples, C classes (leaves), V tree nodes (leaves first).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from laresa.fields import Doc, Range
from laresa.losses.tree import log_masses, once_a_tree
from laresa.terms import Head, Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy


def hace_loss(
    logits_NV: Tensor, y_N: Tensor, tree: Taxonomy, *, dilution: float, smoothing: float = 0.0, epsilon: float = 0.0
) -> Tensor:
    """- sum_v q_v log a_v, per sample (N): hierarchy-aware cross-entropy, HACE Eq. 2-4.

    a = R softmax(logits): a node's mass and all below it. q: the leaf target, `smoothing` of it spread evenly over the
    other leaves (Eq. 3), then pushed up its path: each node keeps the share `dilution` of what reaches it, the top
    node all (Eq. 4). epsilon > 0 takes log(a + epsilon) on probabilities instead, as the authors' code does with 1e-6.

    logits_NV: one logit a NODE. y_N: leaves. dilution in (0, 1]; 1 keeps all on the leaf.
    ValueError: another dilution.

    >>> from laresa import Taxonomy
    >>> tree = Taxonomy.from_groups({"pet": ["cat", "dog"], "tool": ["saw"]})
    >>> cat = torch.tensor([[9.0, 0, 0, 0, 0]])  # all its mass on the cat
    >>> hace_loss(cat, torch.tensor([0]), tree, dilution=0.7).round(decimals=2)
    tensor([0.])
    >>> hace_loss(cat, torch.tensor([1]), tree, dilution=0.7) < hace_loss(cat, torch.tensor([2]), tree, dilution=0.7)
    tensor([True])
    """
    if not isinstance(dilution, Tensor) and not 0 < dilution <= 1:
        raise ValueError(f"dilution={dilution!r}: expected a number in (0, 1]")
    target_CV = _targets(tree, dilution, logits_NV.device, logits_NV.dtype)
    spread = smoothing / max(tree.leaves - 1, 1)
    return _cross_entropy(
        logits_NV, (1 - smoothing - spread) * target_CV[y_N] + spread * target_CV.sum(0), tree, epsilon
    )


def hace(
    batch: Batch,
    *,
    dilution: Annotated[float, Gt(0), Le(1), Range(0.2, 1.0), Doc("share that each node of the path keeps")] = 0.7,
    smoothing: Annotated[float, Ge(0), Lt(1), Doc("share spread over the other leaves first")] = 0.0,
) -> Tensor:
    """`hace_loss`, per sample (N). HACE Eq. 2-4. Mixed targets take the place of the one-hot leaf target."""
    if not batch.mixed:
        return hace_loss(batch.logits, batch.y_N, batch.tree, dilution=dilution, smoothing=smoothing)
    tree, target_NC = batch.tree, batch.target_NC
    spread = smoothing / max(tree.leaves - 1, 1)
    leaf_NC = (1 - smoothing - spread) * target_NC + spread
    return _cross_entropy(
        batch.logits, leaf_NC @ _targets(tree, dilution, target_NC.device, target_NC.dtype), tree, 0.0
    )


def _cross_entropy(logits_NV: Tensor, q_NV: Tensor, tree: Taxonomy, epsilon: float) -> Tensor:
    if epsilon:
        ancestor_VV = _ancestors(tree, logits_NV.device, logits_NV.dtype)
        return -(q_NV * torch.log(logits_NV.softmax(-1) @ ancestor_VV.T + epsilon)).sum(-1)
    return -(q_NV * log_masses(logits_NV.log_softmax(-1), tree)).sum(-1)


@once_a_tree
def _targets(tree: Taxonomy, dilution: Tensor, device: torch.device) -> Tensor:
    """T transposed, C x V: row t is leaf t's target over the nodes."""
    steps_CV = torch.tensor(tree.steps_CV, device=device)
    keep_V = torch.where(torch.tensor(tree.parents < 0, device=device), 1.0, dilution)
    return torch.where(steps_CV >= 0, keep_V * (1 - dilution) ** steps_CV.clamp_min(0), 0.0)


@lru_cache(maxsize=64)
def _ancestors(tree: Taxonomy, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(tree.ancestor_VV, device=device, dtype=dtype)


def _nodes(tree: Taxonomy) -> int:
    return len(tree.parents)


def _log_leaf(logits_NV: Tensor, tree: Taxonomy) -> Tensor:
    """Leaves among themselves: the leaf argmax."""
    return logits_NV[..., : tree.leaves].log_softmax(-1)


NODES = Head(_nodes, _log_leaf)  # one logit a node

TERMS = {"hace": Term(hace, base=NODES, tree=True, labels=False)}

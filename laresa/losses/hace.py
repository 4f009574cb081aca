"""Hierarchy-aware cross-entropy: one logit a node, mass passed up the tree, the target diluted along the path.

Source: HACE, https://arxiv.org/abs/2605.06274, and its authors' code (github.com/Kidara/hierarchy-aware-cross-entropy,
commit d213e80), whose comments cite the equations. Shapes: N samples, C classes (leaves), V tree nodes (leaves first),
S nodes on the longest path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.nn.functional import one_hot

from laresa.fields import Doc, Range
from laresa.losses.tree import along_paths, log_masses, on_nodes, once_a_tree, over_nodes, soft_labels, steps_SC
from laresa.terms import Head, Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy


def hace_loss(
    logits_NV: Tensor, y_N: Tensor, tree: Taxonomy, *, dilution: float, smoothing: float = 0.0, soft_beta: float = 0.0
) -> Tensor:
    """- sum_v q_v log a_v, per sample (N): hierarchy-aware cross-entropy, HACE Eq. 2-4.

    a = R softmax(logits): a node's mass and all below it. q: the leaf target, `smoothing` of it spread evenly over the
    other leaves (Eq. 3), then pushed up its path: each node keeps the share `dilution` of what reaches it, the top
    node all (Eq. 4). soft_beta > 0: Bertinetto's soft labels of that beta in place of the one-hot leaf target.
    All of it in log space; the authors' code takes log(a + 1e-6).

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
    log_a_UN = log_masses(logits_NV, tree)
    kept_SC = _kept(tree, dilution, logits_NV.device, logits_NV.dtype)
    if _zero(soft_beta):
        own, spread = _shares(tree, smoothing)
        loss_N = own * along_paths(log_a_UN, y_N, kept_SC, tree)
        return loss_N if _zero(smoothing) else loss_N + spread * over_nodes(log_a_UN, on_nodes(kept_SC, tree).sum(0))
    onehot_NC = one_hot(y_N, tree.leaves).to(logits_NV.dtype)
    return _over_leaves(log_a_UN, onehot_NC, kept_SC, tree, smoothing, soft_beta)


def hace(
    batch: Batch,
    *,
    dilution: Annotated[float, Gt(0), Le(1), Range(0.2, 1.0), Doc("share that each node of the path keeps")] = 0.7,
    smoothing: Annotated[float, Ge(0), Lt(1), Doc("share spread over the other leaves first")] = 0.0,
    soft_beta: Annotated[
        float, Ge(0), Range(1.0, 50.0, log=True), Doc("soft labels of that beta for the one-hot target; 0: none")
    ] = 0.0,
) -> Tensor:
    """`hace_loss`, per sample (N). HACE Eq. 2-4. Mixed targets take the place of the one-hot leaf target."""
    fields = {"dilution": dilution, "smoothing": smoothing, "soft_beta": soft_beta}
    if not batch.mixed:
        return hace_loss(batch.logits, batch.y_N, batch.tree, **fields)
    kept_SC = _kept(batch.tree, dilution, batch.logits.device, batch.logits.dtype)
    log_a_UN = log_masses(batch.logits, batch.tree)
    return _over_leaves(log_a_UN, batch.target_NC, kept_SC, batch.tree, smoothing, soft_beta)


def _over_leaves(
    log_a_UN: Tensor, leaf_NC: Tensor, kept_SC: Tensor, tree: Taxonomy, smoothing: float, soft_beta: float
) -> Tensor:
    """Of any target over the leaves: softened, smoothed, diluted."""
    if not _zero(soft_beta):
        soft_NC = leaf_NC @ soft_labels(tree, soft_beta, leaf_NC.device, leaf_NC.dtype)
        leaf_NC = torch.where(torch.as_tensor(soft_beta, device=leaf_NC.device) > 0, soft_NC, leaf_NC)
    own, spread = _shares(tree, smoothing)
    return over_nodes(log_a_UN, (own * leaf_NC + spread) @ on_nodes(kept_SC, tree))


def _shares(tree: Taxonomy, smoothing: float) -> tuple[float, float]:
    """(what a leaf target is multiplied by, what is added to each leaf): 1 - smoothing on the true one in all."""
    spread = smoothing / (tree.leaves - 1)
    return 1 - smoothing - spread, spread


def _zero(number: float | Tensor) -> bool:
    """Known to be 0; a head's own number under vmap is not known."""
    return not isinstance(number, Tensor) and number == 0


@once_a_tree
def _kept(tree: Taxonomy, dilution: Tensor, device: torch.device) -> Tensor:
    """Column t: what each node of leaf t's path keeps, S x C; d (1 - d)^s, the top node (1 - d)^s."""
    steps_S1, there_SC = steps_SC(tree, device)
    top_1C = there_SC.sum(0, keepdim=True) - 1
    keeps_SC = torch.where(steps_S1 == top_1C, 1.0, dilution)
    return torch.where(there_SC, keeps_SC * (1 - dilution) ** steps_S1, 0.0)


def _nodes(tree: Taxonomy) -> int:
    return len(tree.parents)


def _log_p(
    logits_NV: Tensor,
    tree: Taxonomy,
    *,
    prediction: Annotated[
        Literal["node", "leaf"], Doc("greatest logit of all nodes (an internal one is wrong), or of the leaves")
    ] = "node",
) -> Tensor:
    """Of all nodes, as the authors predict, or of the leaves among themselves."""
    width = len(tree.parents) if prediction == "node" else tree.leaves
    return logits_NV[..., :width].log_softmax(-1)


NODES = Head(_nodes, _log_p)  # one logit a node

TERMS = {"hace": Term(hace, base=NODES, tree=True, labels=False)}

"""LARESA's losses against sentence embeddings of the class names: anchor, triplet, center and variance.

Source: LARESA, sections 2.2 to 2.4 (equations 1 and 2). Shapes: N samples, D latent dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import normalize, relu

from laresa.batch import moments, unit
from laresa.fields import Choices, Doc, Learned, Range
from laresa.terms import Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy

REDUCTIONS = ("sum", "mean", "sample")
Input = Literal["raw", "unit", "scaled"]
READ = Doc("z as it is read: raw, z / |z|, or that times sqrt(D)")
LEVELS = {0: "fine", 1: "coarse"}


# ---------------------------------------------------------------------- the equations
def anchor_loss(z_ND: Tensor, fine_ND: Tensor, coarse_ND: Tensor, weights_2: Tensor) -> Tensor:
    """b_f (1 - cos(z, e_y)) + b_c (1 - cos(z, g_c(y))), per sample (N). LARESA Eq. 1, sec. 2.2.

    fine_ND, coarse_ND: embeddings of each sample's class and of its coarse class, of any length but zero.
    weights_2: (b_f, b_c), convex.
    """
    unit_ND = unit(z_ND)
    fine_N, coarse_N = ((unit_ND * normalize(other, dim=-1)).sum(-1) for other in (fine_ND, coarse_ND))
    return _anchor(fine_N, coarse_N, weights_2)


def triplet_loss(z_ND: Tensor, positive_ND: Tensor, negative_ND: Tensor, *, margin: float) -> Tensor:
    """max(0, margin + d(z, e_y) - d(z, e_neg)), d = 1 - cos, per sample (N). LARESA Eq. 2.

    positive_ND, negative_ND: embeddings of each sample's class and of another one, of any length but zero.

    >>> z, own, other = torch.tensor([[2.0, 0]]), torch.tensor([[3.0, 0]]), torch.tensor([[0.0, 5]])
    >>> triplet_loss(z, own, other, margin=0.2), triplet_loss(z, other, own, margin=0.2)
    (tensor([0.]), tensor([1.2000]))
    """
    unit_ND = unit(z_ND)
    positive_N, negative_N = ((unit_ND * normalize(other, dim=-1)).sum(-1) for other in (positive_ND, negative_ND))
    return relu(negative_N - positive_N + margin)


def center_loss(z_ND: Tensor, *, reduction: str = "sum") -> Tensor:
    """|mean of z over the batch|^2, a scalar. LARESA sec. 2.4; not the center loss of Wen et al.

    reduction: "sum" (the paper) or "mean" over D. ValueError: another one.
    """
    if reduction not in REDUCTIONS[:2]:
        raise ValueError(f"reduction={reduction!r}: expected 'sum' or 'mean'")
    return _center(z_ND.mean(0), reduction)


def variance_loss(z_ND: Tensor, *, reduction: str = "sum") -> Tensor:
    """sum_i (sigma_i - 1)^2 over the D dimensions, a scalar. LARESA sec. 2.4.

    sigma_i is a dimension's over the batch, as torch.std (Bessel's correction); a batch of one gives 0. A dimension
    that is constant over the batch has no direction to grow in: its gradient is 0.
    reduction: "sum" (the paper) or "mean" over D; or "sample", another reading of sigma: of each sample over its D
    entries, (sigma_n - 1)^2 averaged over the N samples. ValueError: another one.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: expected 'sum', 'mean' or 'sample'")
    return _variance(moments(z_ND.T if reduction == "sample" else z_ND)[1], reduction)


def _anchor(fine_N: Tensor, coarse_N: Tensor, weights_2: Tensor) -> Tensor:
    return (1 - fine_N) * weights_2[0] + (1 - coarse_N) * weights_2[1]


def _center(mean_D: Tensor, reduction: str) -> Tensor:
    total = mean_D.dot(mean_D)
    return total / len(mean_D) if reduction == "mean" else total


def _variance(sigma: Tensor, reduction: str) -> Tensor:
    away = sigma - 1
    total = away.dot(away)
    return total if reduction == "sum" else total / len(away)


# ---------------------------------------------------------------------- the terms
def _one_a_level(tree: Taxonomy, width: int) -> Tensor:
    """A root's text, the same for all classes, would be a constant that the weights soon prefer to all else."""
    return torch.ones(tree.telling)


def anchor(
    batch: Batch,
    *,
    beta: Annotated[
        Tensor,
        Learned(_one_a_level),
        Doc("logits of the weights of fine, coarse, ... texts; tree: one a level but the root's"),
    ] = (1.0, 1.0),  # type: ignore[assignment]
) -> Tensor:
    """`anchor_loss` with learned weights softmax(beta). LARESA Eq. 1, which has two levels; any number of them here.

    Level k is the text k steps up from the class, the top's where its path ends.
    """
    losses = [(1 - batch.cosines(level)) * weight for level, weight in enumerate(beta.softmax(0))]
    return sum(losses[1:], losses[0])


def triplet(
    batch: Batch,
    *,
    margin: Annotated[float, Ge(0), Range(0.05, 0.8), Doc("how much nearer the own text must be")] = 0.2,
    negatives: Annotated[
        Literal["uniform", "nearest", "semi_hard"], Doc("the other class: drawn (the paper), nearest name, semi-hard")
    ] = "uniform",
) -> Tensor:
    """`triplet_loss` against the text of another class. LARESA Eq. 2.

    negatives: "uniform" draws it (LARESA sec. 2.3); "nearest" takes the class whose text is nearest to the own;
    "semi_hard" the nearest to z of those that are farther than the own text, within the margin where there is one
    (FaceNet, Schroff et al., CVPR 2015, https://arxiv.org/abs/1503.03832, sec. 3.2).
    """
    if negatives == "uniform":
        negative_N = batch.cosines("negative")
    elif negatives == "nearest":
        negative_N = batch.cosines_to(_nearest_C(batch)[batch.y_N])
    else:
        negative_N = _semi_hard(batch)
    return relu(negative_N - batch.cosines("fine") + margin)


def center(
    batch: Batch,
    *,
    input: Annotated[Input, Choices(), READ] = "raw",
    reduction: Annotated[Literal["sum", "mean"], Choices(), Doc("over the latent dimensions")] = "sum",
) -> Tensor:
    """`center_loss` of z as `input` reads it. LARESA sec. 2.4, which says neither that nor the reduction."""
    return _center(batch.moments(input)[0], reduction)


def variance(
    batch: Batch,
    *,
    input: Annotated[Input, Choices(), READ] = "raw",
    reduction: Annotated[
        Literal["sum", "mean", "sample"],
        Choices(),
        Doc("over the latent dimensions; sample: sigma over a sample's entries, not over the batch"),
    ] = "sum",
) -> Tensor:
    """`variance_loss` of z as `input` reads it. LARESA sec. 2.4, which says neither that nor the reduction."""
    if reduction == "sample":
        return _variance(moments(batch.latents(input).T)[1], reduction)
    return _variance(batch.moments(input)[1], reduction)


def _others(scores: Tensor, own_N: Tensor) -> Tensor:
    """The scores with -inf for each row's own class."""
    own = torch.nn.functional.one_hot(own_N, scores.shape[-1]).bool()
    return scores.masked_fill(own, -torch.inf)


def _nearest_C(batch: Batch) -> Tensor:
    table_CD = batch.table("fine")
    return _others(table_CD @ table_CD.T, torch.arange(len(table_CD), device=table_CD.device)).argmax(1)


def _semi_hard(batch: Batch) -> Tensor:
    """Cosine to the nearest of the others that are farther than the own text; where none is, to the farthest."""
    others_NC = _others(batch.scores("fine"), batch.y_N)
    farther_NC = others_NC.masked_fill(others_NC >= batch.cosines("fine").detach()[:, None], -torch.inf)
    nearest_N = farther_NC.amax(1)
    farthest_N = others_NC.masked_fill(others_NC.isinf(), torch.inf).amin(1)
    return torch.where(nearest_N.isinf(), farthest_N, nearest_N)


def _show_beta(learned: Mapping[str, Tensor]) -> dict[str, float]:
    """The anchor's weights, as the paper's Figure 9 shows them."""
    weights = learned["beta"].softmax(0).tolist()
    return {f"beta/{LEVELS.get(level, f'level{level}')}": weight for level, weight in enumerate(weights)}


TERMS = {
    "anchor": Term(anchor, tree=True, show=_show_beta),
    "triplet": triplet,
    "center": Term(center, labels=False),
    "variance": Term(variance, labels=False),
}
TERM_GROUPS = {"reg": ("center", "variance")}

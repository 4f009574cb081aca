"""The losses, one pure function per equation. Each returns a value per sample (N) or one per batch (scalar).

Shapes: N samples, D latent dimensions, C classes (leaves), V tree nodes (leaves first), K vectors a sample.
Sources: LARESA (its equation or section), HACE (arXiv 2605.06274), HXE and soft labels (Bertinetto et al., CVPR 2020).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize, pad, relu

from laresa.hierarchy import Hierarchy, hierarchy, log_masses

if TYPE_CHECKING:
    from laresa.taxonomy import Taxonomy

EPS = 1e-12  # a norm below it counts as zero


# ---------------------------------------------------------------------- LARESA
def anchor_loss(z_ND: Tensor, fine_ND: Tensor, coarse_ND: Tensor, weights_2: Tensor) -> Tensor:
    """b_f (1 - cos(z, e_y)) + b_c (1 - cos(z, g_c(y))), per sample (N). LARESA Eq. 1, sec. 2.2.

    fine_ND, coarse_ND: embeddings of each sample's class and of its coarse class, of any length but zero.
    weights_2: (b_f, b_c), convex.
    """
    return anchor_from_cosines(cosines(z_ND, normalize(torch.stack((fine_ND, coarse_ND), 1), dim=2)), weights_2)


def triplet_loss(z_ND: Tensor, positive_ND: Tensor, negative_ND: Tensor, *, margin: float) -> Tensor:
    """max(0, margin + d(z, e_y) - d(z, e_neg)), d = 1 - cos, per sample (N). LARESA Eq. 2.

    positive_ND, negative_ND: embeddings of each sample's class and of another one, of any length but zero.
    """
    cosine_N2 = cosines(z_ND, normalize(torch.stack((positive_ND, negative_ND), 1), dim=2))
    return triplet_from_cosines(cosine_N2[:, 0], cosine_N2[:, 1], margin=margin)


def center_loss(z_ND: Tensor) -> Tensor:
    """|mean of z over the batch|^2, a scalar. LARESA sec. 2.4; not the center loss of Wen et al."""
    return center_from_mean(z_ND.mean(0))


def variance_loss(z_ND: Tensor, *, reduction: str = "sum") -> Tensor:
    """sum_i (sigma_i - 1)^2 over the D dimensions, a scalar. LARESA sec. 2.4.

    sigma as torch.std (Bessel's correction); a batch of one gives 0. A dimension that is constant over the batch has
    no direction to grow in: its gradient is 0.
    reduction: "sum" (the paper) or "mean" over D.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction={reduction!r}: expected 'sum' or 'mean'")
    return variance_from_sigma(moments(z_ND)[1], reduction=reduction)


# ---------------------------------------------------------------------- the same from what several terms share
def cosines(z_ND: Tensor, unit_NKD: Tensor) -> Tensor:
    """cos(z_n, u_nk) -> N x K, for unit vectors u (taken as constants). A zero z has cosine 0 and gradient 0."""
    return _Cosines.apply(z_ND, unit_NKD)


def moments(z_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(mean_D, sigma_D) over the batch, sigma with Bessel's correction. A batch of one has sigma 1 and no gradient."""
    return _Moments.apply(z_ND)


def anchor_from_cosines(cosine_N2: Tensor, weights_2: Tensor) -> Tensor:
    """`anchor_loss` from cosines to (fine, coarse). It is linear: from their means over N (2) follows its mean."""
    return ((1 - cosine_N2) * weights_2).sum(-1)


def triplet_from_cosines(positive_N: Tensor, negative_N: Tensor, *, margin: float) -> Tensor:
    """`triplet_loss` from cosines."""
    return relu(negative_N - positive_N + margin)


def center_from_mean(mean_D: Tensor) -> Tensor:
    """`center_loss` from the mean."""
    return mean_D.dot(mean_D)


def variance_from_sigma(sigma_D: Tensor, *, reduction: str) -> Tensor:
    """`variance_loss` from sigma."""
    away_D = sigma_D - 1
    total = away_D.dot(away_D)
    return total / len(away_D) if reduction == "mean" else total


class _Cosines(torch.autograd.Function):
    """By hand, because autograd's chain through norm and quotient writes N x D five times over (2x the time)."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor, unit_NKD: Tensor) -> Tensor:
        norm_N1 = torch.linalg.vector_norm(z_ND, dim=1, keepdim=True)
        inverse_N1 = norm_N1.reciprocal().masked_fill_(norm_N1 < EPS, 0)
        unit_ND = z_ND * inverse_N1
        cosine_NK = (unit_NKD * unit_ND.unsqueeze(1)).sum(2)
        ctx.save_for_backward(unit_ND, inverse_N1, unit_NKD, cosine_NK)
        return cosine_NK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, None]:
        unit_ND, inverse_N1, unit_NKD, cosine_NK = ctx.saved_tensors
        along_N1 = (grad_NK * cosine_NK).sum(1, keepdim=True)
        grad_ND = (unit_NKD * grad_NK.unsqueeze(2)).sum(1)
        return grad_ND.addcmul_(unit_ND, along_N1, value=-1).mul_(inverse_N1), None


class _Moments(torch.autograd.Function):
    """By hand for the same reason; torch.std over the batch is also slow on a CPU (4x)."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor) -> tuple[Tensor, Tensor]:
        mean_D = z_ND.mean(0)
        centred_ND = z_ND - mean_D
        one = len(z_ND) < 2
        sigma_D = torch.ones_like(mean_D) if one else (centred_ND.square().sum(0) / (len(z_ND) - 1)).sqrt()
        ctx.save_for_backward(centred_ND, sigma_D)
        return mean_D, sigma_D

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean_D: Tensor, grad_sigma_D: Tensor) -> Tensor:
        centred_ND, sigma_D = ctx.saved_tensors
        n = len(centred_ND)
        slope_D = grad_sigma_D / (sigma_D * max(n - 1, 1)).clamp_min(EPS)
        return torch.addcmul(grad_mean_D / n, centred_ND, slope_D)


# ---------------------------------------------------------------------- losses over a tree
def hace_loss(
    logits_NV: Tensor, y_N: Tensor, tree: Taxonomy, *, dilution: float, smoothing: float = 0.0, epsilon: float = 0.0
) -> Tensor:
    """- sum_v q_v log a_v, per sample (N): hierarchy-aware cross-entropy, HACE Eq. 2-4.

    a = R softmax(logits): a node's mass and all below it. q: the leaf target, `smoothing` of it spread evenly over the
    other leaves (Eq. 3), then pushed up its path: each node keeps the share `dilution` of what reaches it, the top
    node all (Eq. 4). epsilon > 0 takes log(a + epsilon) on probabilities instead, as the authors' code does with 1e-6.

    logits_NV: one logit a NODE. y_N: leaves. dilution in (0, 1]; 1 keeps all on the leaf.
    """
    tables = hierarchy(tree)
    target_CV = _hace_targets(tables, dilution, logits_NV.device, logits_NV.dtype)
    spread = smoothing / max(tables.n_leaves - 1, 1)
    q_NV = (1 - smoothing - spread) * target_CV[y_N] + spread * target_CV.sum(0)
    if epsilon:
        ancestors_VV = _ancestors(tables, logits_NV.device, logits_NV.dtype)
        return -(q_NV * torch.log(logits_NV.softmax(1) @ ancestors_VV.T + epsilon)).sum(1)
    return -(q_NV * log_masses(logits_NV.log_softmax(1), tables)).sum(1)


def hxe_loss(logits_NC: Tensor, y_N: Tensor, tree: Taxonomy, *, alpha: float) -> Tensor:
    """- sum_l lambda_l log(a_l / a_{l+1}) along the path from the leaf (l = 0), per sample (N). HXE, Bertinetto et al.

    lambda falls with the depth from the root as exp(-alpha * depth). Normalised so that the leaf edge has weight 1:
    lambda_l = exp(alpha * l), and a learning rate means the same for every alpha. alpha = 0 is cross-entropy.
    Mass above the top node is 1 (the last edge of a tree without root; it adds nothing where there is one).
    """
    tables = hierarchy(tree)
    weight_CV = _hxe_weights(tables, alpha, logits_NC.device, logits_NC.dtype)
    # Softmax over leaves: internal nodes have no mass of their own.
    log_p_NV = pad(logits_NC.log_softmax(1), (0, len(tables.parents) - tables.n_leaves), value=-torch.inf)
    return -(weight_CV[y_N] * log_masses(log_p_NV, tables)).sum(1)


def soft_label_loss(logits_NC: Tensor, y_N: Tensor, tree: Taxonomy, *, beta: float) -> Tensor:
    """- sum_j t_j log p_j with t_j ~ exp(-beta d(j, y) / d_max), per sample (N). Soft labels, Bertinetto et al.

    d: height of the lowest common ancestor, d_max its largest value. A great beta gives cross-entropy.
    """
    target_CC = _soft_labels(hierarchy(tree), beta, logits_NC.device, logits_NC.dtype)
    return -(target_CC[y_N] * logits_NC.log_softmax(1)).sum(1)


# ---------------------------------------------------------------------- tables, built once a tree and setting
@lru_cache(maxsize=64)
def _hace_targets(tables: Hierarchy, dilution: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """T transposed, C x V: row t is leaf t's target over the nodes."""
    if not 0 < dilution <= 1:
        raise ValueError(f"dilution={dilution!r}: expected a number in (0, 1]")
    target_CV = torch.zeros(tables.n_leaves, len(tables.parents), dtype=torch.float64)
    for leaf, path in enumerate(tables.paths[: tables.n_leaves]):
        for k, node in enumerate(path):
            keep = 1.0 if k == len(path) - 1 else dilution
            target_CV[leaf, node] = keep * (1 - dilution) ** k
    return target_CV.to(device, dtype)


@lru_cache(maxsize=64)
def _hxe_weights(tables: Hierarchy, alpha: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weight of each -log a_v, C x V: the edges' sum written by nodes, lambda_l - lambda_{l-1}."""
    edge = torch.exp(alpha * torch.arange(max(tables.heights) + 1, dtype=torch.float64))
    node_weight = torch.diff(edge, prepend=torch.zeros(1))
    weight_CV = torch.zeros(tables.n_leaves, len(tables.parents), dtype=torch.float64)
    for leaf, path in enumerate(tables.paths[: tables.n_leaves]):
        weight_CV[leaf, list(path)] = node_weight[: len(path)]
    return weight_CV.to(device, dtype)


@lru_cache(maxsize=64)
def _soft_labels(tables: Hierarchy, beta: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Row t: the soft target of leaf t, C x C."""
    distance_CC = torch.tensor(tables.lca_heights[: tables.n_leaves, : tables.n_leaves], dtype=torch.float64)
    return torch.softmax(-beta * distance_CC / distance_CC.max().clamp_min(1), 1).to(device, dtype)


@lru_cache(maxsize=64)
def _ancestors(tables: Hierarchy, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(tables.ancestors, device=device, dtype=dtype)

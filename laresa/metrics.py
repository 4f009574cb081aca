"""The metrics: accuracy, how bad the mistakes are, and the geometry of the latent space.

Shapes: N samples, D latent dimensions, C classes, K coarse classes, V tree nodes (leaves first). Arrays are torch
tensors on any device or numpy arrays. Every value is a float; one that the input does not define (no sample, a single
group, distances that are all equal, a value that is not finite) is nan, never an exception.
Sources: LARESA App. B and Table 3; Bertinetto et al., CVPR 2020; CRM (Karthik et al., ICLR 2021,
https://arxiv.org/abs/2104.00795); effective rank after Roy and Vetterli (EUSIPCO 2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from laresa.errors import ConfigError
from laresa.measurement import CRM, DECISIONS
from laresa.plugins import table

if TYPE_CHECKING:
    from laresa.labels import LabelEmbeddings
    from laresa.taxonomy import Taxonomy

Array = Tensor | NDArray[Any]
NAN = float("nan")
ROWS = 512  # of distances that are held at once


@dataclass(frozen=True)
class Metric:
    """A metric of a plugin (METRICS) and which way it is better: "max" or "min".

    fn: (logits_NC, z_ND or None, y_N, tree) -> float, of numpy arrays.
    """

    fn: Callable[..., float]
    better: str = "max"


def evaluate(
    logits: Array, z_ND: Array | None, y_N: Array, tree: Taxonomy, labels: LabelEmbeddings | None
) -> dict[str, float]:
    """Every metric of a test split; names as in MLflow without "test/". Those of plugins stand last.

    logits: N x C, one a class; or N x V, one a node, where an internal node may be predicted: as top-1 it is wrong, and
    in the tree it stands where it stands (the true class's parent is right at level 1, at distance 1).
    z_ND, labels: None where there are no latents to measure. labels: the TRUE embeddings (not the permuted ones a
    control trained with). spearman_fine, pearson_fine: over class centroids (App. B); spearman_coarse,
    pearson_coarse: over the means of all samples of each coarse class (Table 3). classes_without_samples: classes
    that have no centroid. ..._crm: the same of CRM's decision over the classes, whatever the logits are of.
    top1_level1, ...: accuracy of the levels above the classes. What needs a tree is nan where the data set is flat.
    """
    logits, y_N = _numpy(logits), _numpy(y_N)
    z_ND = None if z_ND is None else _numpy(z_ND)
    plain = _of_ranks(_ranked(logits), y_N, tree)
    crm = _of_ranks(_ranked(-expected_heights(logits, tree)), y_N, tree) if not tree.flat else dict.fromkeys(plain, NAN)
    found = {name: plain.pop(name) for name in ("top1", "top5")}
    if z_ND is not None:
        found |= _of_latents(z_ND, y_N, logits, tree, labels)
    found["classes_without_samples"] = float(len(tree.names) - len(np.unique(y_N)))
    found |= {name: plain.pop(name) for name in DECISIONS[2:]}
    found |= {f"{name}{CRM}": crm.pop(name) for name in DECISIONS}
    found |= plain | {f"{name}{CRM}": value for name, value in crm.items()}  # the levels
    return found | evaluate_own(logits, z_ND, y_N, tree)


def _of_ranks(rank_NR: NDArray[np.int64], y_N: NDArray[Any], tree: Taxonomy) -> dict[str, float]:
    """DECISIONS, then the levels, of the predictions from the likeliest on."""
    pred_N = rank_NR[:, 0]
    found = {"top1": _mean(pred_N == y_N), "top5": _mean((rank_NR[:, :5] == y_N[:, None]).any(1))}
    if tree.flat:
        return found | dict.fromkeys(DECISIONS[2:], NAN)
    found["mistake_severity"] = mistake_severity(pred_N, y_N, tree)
    found["hierarchical_distance"] = hierarchical_distance(pred_N, y_N, tree)
    for k in (5, 20):
        found[f"hierarchical_distance_at{k}"] = hierarchical_distance(rank_NR[:, :k], y_N[:, None], tree)
    found["sibling_accuracy"] = sibling_accuracy(pred_N, y_N, tree)
    levels = level_accuracies(pred_N, y_N, tree)
    return found | {f"top1_level{level}": levels[level] for level in range(1, tree.telling)}


def evaluate_own(logits: Array, z_ND: Array | None, y_N: Array, tree: Taxonomy) -> dict[str, float]:
    """The metrics of plugins; of logits one a node those of the classes. ConfigError: one gives no number."""
    found = {}
    arrays = _numpy(logits)[:, : tree.leaves], None if z_ND is None else _numpy(z_ND), _numpy(y_N)
    for name, own in table("METRICS").items():
        fn = own.fn if isinstance(own, Metric) else own
        value = fn(*arrays, tree)
        if not isinstance(value, (int, float, np.floating)):
            raise ConfigError(f"metric {name!r} gave {type(value).__name__}: expected a number")
        found[name] = float(value)
    return found


def _of_latents(
    z_ND: NDArray[Any], y_N: NDArray[Any], logits: NDArray[Any], tree: Taxonomy, labels: LabelEmbeddings | None
) -> dict[str, float]:
    """The geometry of the latent space."""
    parent_C = tree.parent_C
    found = {
        "nn_hit": NAN if tree.flat else nn_hit(z_ND, y_N, parent_C),
        "nn_hit_predicted": NAN if tree.flat else nn_hit_predicted(z_ND, logits, parent_C),
        "silhouette": NAN if tree.flat else silhouette(z_ND, parent_C[y_N]),
        "effective_rank": (rank := effective_rank(z_ND)),
        "rank_share": rank / min(max(tree.leaves - 1, 1), z_ND.shape[1]),
    }
    if labels is not None:
        coarse = (NAN, NAN) if tree.flat else semantic_correlation(z_ND, parent_C[y_N], labels.coarse_KD)
        found["spearman_fine"], found["pearson_fine"] = semantic_correlation(z_ND, y_N, labels.fine_CD)
        found["spearman_coarse"], found["pearson_coarse"] = coarse
    return found


# ---------------------------------------------------------------------- accuracy
def top1(logits_NC: Array, y_N: Array) -> float:
    """Share of samples whose greatest logit is their class's, in [0, 1]. LARESA Eq. 6.

    With one logit a node (HACE) an internal node on top counts as wrong.
    """
    return _mean(_numpy(logits_NC).argmax(1) == _numpy(y_N))


def top5(logits_NC: Array, y_N: Array) -> float:
    """Share of samples whose class is among the five greatest logits (all, where there are fewer)."""
    return _mean((_ranked(_numpy(logits_NC))[:, :5] == _numpy(y_N)[:, None]).any(1))


def sibling_accuracy(pred_N: Array, y_N: Array, tree: Taxonomy) -> float:
    """Share of samples whose predicted CLASS has the true class's parent."""
    parents_V, pred_N = np.asarray(tree.parents), _numpy(pred_N)
    return _mean((parents_V[pred_N] == parents_V[_numpy(y_N)]) & (pred_N < tree.leaves))


def level_accuracies(pred_N: Array, y_N: Array, tree: Taxonomy) -> list[float]:
    """For k = 0, 1, ...: share of samples whose prediction is, or lies under, the node k steps up from the true class.

    Entry 0 is top-1, entry 1 the parents' accuracy, and so on; a class whose path has ended counts with its top, so
    that every entry is a mean over all samples. In a tree whose leaves have one depth entry k is that of its level.
    """
    pred_N, y_N = _numpy(pred_N), _numpy(y_N)
    return [_mean(tree.ancestor_VV[tree.level(level)[y_N], pred_N]) for level in range(tree.levels)]


def expected_heights(logits: Array, tree: Taxonomy) -> NDArray[np.float64]:
    """sum_j D[k, j] p_j (N x C): the expected height of the common ancestor with the truth, for each class k.

    p: softmax over the classes' logits; those of internal nodes, where there are some, are left out.
    """
    logits_NC = _numpy(logits)[:, : tree.leaves].astype(np.float64)
    p_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True, initial=-np.inf))
    p_NC /= p_NC.sum(1, keepdims=True)
    return p_NC @ tree.lca_VV[: tree.leaves, : tree.leaves].astype(np.float64)


def crm_predict(logits: Array, tree: Taxonomy) -> NDArray[np.int64]:
    """argmin_k sum_j D[k, j] p_j (N): the class of least expected LCA height. CRM; needs no training of its own."""
    return expected_heights(logits, tree).argmin(1)


def _ranked(scores_NR: NDArray[Any], most: int = 20) -> NDArray[np.int64]:
    """Columns from the greatest on, N x min(most, R). The first is argmax's also among equals."""
    count = min(most, scores_NR.shape[1])
    rank_NR = torch.from_numpy(np.ascontiguousarray(scores_NR)).topk(count, dim=1).indices.numpy()
    first_N1 = scores_NR.argmax(1)[:, None]
    rank_NR = np.where(rank_NR == first_N1, rank_NR[:, :1], rank_NR)  # changes places where several are greatest
    rank_NR[:, :1] = first_N1
    return rank_NR


# ---------------------------------------------------------------------- mistakes in the tree
def mistake_severity(pred_N: Array, y_N: Array, tree: Taxonomy) -> float:
    """Mean height (edges) of the lowest common ancestor over WRONG predictions; nan where none is wrong.

    It falls when mild mistakes are added, so it stands beside top-1, never alone. Bertinetto et al., after CRM.
    """
    lca_N = _lca_heights(pred_N, y_N, tree)
    return _mean(lca_N[_numpy(pred_N) != _numpy(y_N)])


def hierarchical_distance(pred: Array, y: Array, tree: Taxonomy) -> float:
    """Mean height (edges) of the lowest common ancestor over all predictions, 0 for a right one (distance @1).

    Of the k likeliest (N x k, y N x 1) it is the distance @k of Bertinetto et al., sec. 4.1: their order is not seen.
    """
    return _mean(_lca_heights(pred, y, tree))


def _lca_heights(pred: Array, y: Array, tree: Taxonomy) -> NDArray[np.int64]:
    return tree.lca_VV[_numpy(pred), _numpy(y)]


# ---------------------------------------------------------------------- the latent space
def class_centroids(z_ND: Array, y_N: Array) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(centroids P x D, present P): mean latent of each class that has samples, and which classes those are."""
    z_ND, y_N = _numpy(z_ND), _numpy(y_N)
    present_P, index_N, count_P = np.unique(y_N, return_inverse=True, return_counts=True)
    sums_PD = torch.zeros(len(present_P), z_ND.shape[1], dtype=torch.float64)
    sums_PD.index_add_(0, torch.from_numpy(index_N), torch.from_numpy(z_ND.astype(np.float64)))
    return sums_PD.numpy() / count_P[:, None], present_P


def nn_hit(z_ND: Array, y_N: Array, parent_C: Array) -> float:
    """Share of class centroids whose nearest other centroid (Euclidean) has the same parent. LARESA Eq. 7.

    y_N: the true classes; Eq. 7 sums over "predicted classes", which is `nn_hit_predicted`. Classes without samples are
    left out. A class without siblings can't hit, so the ceiling may lie under 1.
    """
    centroids_PD, present_P = class_centroids(z_ND, y_N)
    if len(present_P) < 2 or not np.isfinite(centroids_PD).all():
        return NAN
    distance_PP = cdist(centroids_PD, centroids_PD)
    np.fill_diagonal(distance_PP, np.inf)
    parent_P = _numpy(parent_C)[present_P]
    return _mean(parent_P[distance_PP.argmin(1)] == parent_P)


def nn_hit_predicted(z_ND: Array, logits: Array, parent_C: Array) -> float:
    """As nn_hit, a centroid being the mean of what was PREDICTED to be of the class: Eq. 7's words taken literally.

    logits: one a class, or one a node, of which the classes' come first and count alone. A class that is never
    predicted has no centroid and is left out.
    """
    return nn_hit(z_ND, _numpy(logits)[:, : len(parent_C)].argmax(1), parent_C)


def effective_rank(z_ND: Array) -> float:
    """exp(- sum_i p_i log p_i) with p_i = s_i^2 / sum_j s_j^2, from 1 to min(N - 1, D).

    s: the singular values of the centred latents, so p is the share of the variance along each principal direction.
    After Roy and Vetterli, EUSIPCO 2007, who take s_i in place of its square. nan where nothing varies, or a number is
    not finite.
    """
    z_ND = _numpy(z_ND).astype(np.float64)
    if not z_ND.size or not np.isfinite(z_ND).all() or not np.ptp(z_ND, axis=0).any():
        return NAN
    z_ND = z_ND - z_ND.mean(0)
    z_ND /= np.abs(z_ND).max()  # so that no square overflows or vanishes
    shorter = z_ND @ z_ND.T if len(z_ND) < z_ND.shape[1] else z_ND.T @ z_ND
    square = np.linalg.eigvalsh(shorter).clip(0)
    p = square[square > 0] / square.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def silhouette(z_ND: Array, group_N: Array) -> float:
    """Mean silhouette (Euclidean) of samples in groups, in [-1, 1]; a group of one counts 0. LARESA Eq. 8.

    nan unless there are at least 2 groups and fewer groups than samples.
    """
    z_ND, group_N = _numpy(z_ND).astype(np.float64), _numpy(group_N)
    if not 2 <= len(np.unique(group_N)) < len(group_N) or not np.isfinite(z_ND).all():
        return NAN
    order_N = np.argsort(group_N, kind="stable")
    _, size_K = np.unique(group_N, return_counts=True)
    sum_NK, own_N = _distances_to_groups(z_ND[order_N], size_K), np.repeat(np.arange(len(size_K)), size_K)
    all_N, size_N = np.arange(len(own_N)), size_K[own_N]
    within_N = sum_NK[all_N, own_N] / np.maximum(size_N - 1, 1)
    mean_NK = sum_NK / size_K
    mean_NK[all_N, own_N] = np.inf
    nearest_N = mean_NK.min(1)
    larger_N = np.maximum(within_N, nearest_N)
    counts_N = (size_N > 1) & (larger_N > 0)
    return float(np.where(counts_N, (nearest_N - within_N) / np.where(counts_N, larger_N, 1), 0).mean())


def _distances_to_groups(z_ND: NDArray[np.float64], size_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [N, K]: the sum of each sample's Euclidean distances to those of each group.

    The groups' samples lie side by side, so that a sum is of a run. Each pair is measured once: of a block of samples
    the distances to itself and all that follow, which the followers need, too.
    """
    z_ND = z_ND - z_ND.mean(0)  # squares cancel less
    square_N = np.einsum("nd,nd->n", z_ND, z_ND)
    own_N = np.repeat(np.arange(len(size_K)), size_K)
    sum_NK = np.zeros((len(z_ND), len(size_K)))
    for start in range(0, len(z_ND), ROWS):
        end = min(start + ROWS, len(z_ND))
        distance_BM = square_N[start:end, None] + square_N[start:] - 2 * (z_ND[start:end] @ z_ND[start:].T)
        distance_BM = np.sqrt(np.maximum(distance_BM, 0, out=distance_BM), out=distance_BM)
        np.fill_diagonal(distance_BM, 0)
        runs, group_R = _runs(own_N[start:])
        sum_NK[start:end, group_R] += np.add.reduceat(distance_BM, runs, axis=1)
        if end < len(z_ND):
            runs, group_R = _runs(own_N[start:end])
            sum_NK[end:, group_R] += np.add.reduceat(distance_BM[:, end - start :], runs, axis=0).T
    return sum_NK


def _runs(own: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(where each run of equal numbers begins, its number), of ascending ones."""
    group_R, runs = np.unique(own, return_index=True)
    return runs, group_R


def semantic_correlation(z_ND: Array, y_N: Array, e_CD: Array) -> tuple[float, float]:
    """(Spearman, Pearson) between pairwise distances of class centroids and of label embeddings. LARESA Eq. 9, 10.

    Euclidean between centroids, cosine between embeddings (the paper states neither). Classes without samples are left
    out. (nan, nan) for fewer than 3 classes, or where one side's distances are all equal.
    """
    centroids_PD, present_P = class_centroids(z_ND, y_N)
    if len(present_P) < 3:
        return NAN, NAN
    latent, semantic = pdist(centroids_PD), pdist(_numpy(e_CD)[present_P].astype(np.float64), "cosine")
    if not (_varies(latent) and _varies(semantic)):
        return NAN, NAN
    return float(spearmanr(latent, semantic).statistic), float(pearsonr(latent, semantic).statistic)


def _varies(distances: NDArray[np.float64]) -> bool:
    """Finite, and not equal up to rounding."""
    spread = np.ptp(distances)
    return bool(np.isfinite(spread) and spread > 1e-9 * np.abs(distances).max())


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else NAN


def _numpy(array: Array) -> NDArray[Any]:
    if not isinstance(array, Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has no bfloat16

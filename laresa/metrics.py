"""The metrics: accuracy, the geometry of the latent space, and how bad the mistakes are.

Shapes: N samples, D latent dimensions, C classes, K coarse classes, V tree nodes (leaves first). Arrays are torch
tensors on any device or numpy arrays. Every value is a float; one that the input does not define (no sample, a single
group, distances that are all equal, a value that is not finite) is nan, never an exception.
Sources: LARESA App. B and Table 3; Bertinetto et al., CVPR 2020; CRM (Karthik et al., ICLR 2021).
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
from sklearn.metrics import silhouette_score
from torch import Tensor

from laresa.errors import ConfigError
from laresa.plugins import table

if TYPE_CHECKING:
    from laresa.labels import LabelEmbeddings
    from laresa.taxonomy import Taxonomy

Array = Tensor | NDArray[Any]
NAN = float("nan")


@dataclass(frozen=True)
class Metric:
    """A metric of a plugin (METRICS) and which way it is better: "max" or "min".

    fn: (logits_NC, z_ND or None, y_N, tree) -> float, of numpy arrays.
    """

    fn: Callable[..., float]
    better: str = "max"


def evaluate(
    logits_NC: Array, z_ND: Array | None, y_N: Array, tree: Taxonomy, labels: LabelEmbeddings | None
) -> dict[str, float]:
    """Every metric of a test split; names as in MLflow without "test/". Those of plugins stand last.

    z_ND, labels: None where there are no latents to measure. labels: the TRUE embeddings (not the permuted ones a
    control trained with). spearman_fine, pearson_fine: over class centroids (App. B); spearman_coarse,
    pearson_coarse: over the means of all samples of each coarse class (Table 3). classes_without_samples: classes
    that have no centroid. What needs a tree is nan where the data set is flat.
    """
    logits_NC, y_N = _numpy(logits_NC), _numpy(y_N)
    z_ND = None if z_ND is None else _numpy(z_ND)
    pred_N = logits_NC.argmax(1)
    found = {"top1": top1(logits_NC, y_N)}
    if z_ND is not None and labels is not None:
        found |= _of_latents(z_ND, y_N, tree, labels)
    found["classes_without_samples"] = float(len(tree.names) - len(np.unique(y_N)))
    for metric in (mistake_severity, hierarchical_distance, sibling_accuracy):
        found[metric.__name__] = NAN if tree.flat else metric(pred_N, y_N, tree)
    return found | evaluate_own(logits_NC, z_ND, y_N, tree)


def evaluate_own(logits_NC: Array, z_ND: Array | None, y_N: Array, tree: Taxonomy) -> dict[str, float]:
    """The metrics of plugins. ConfigError: one gives no number."""
    found = {}
    arrays = _numpy(logits_NC), None if z_ND is None else _numpy(z_ND), _numpy(y_N)
    for name, own in table("METRICS").items():
        fn = own.fn if isinstance(own, Metric) else own
        value = fn(*arrays, tree)
        if not isinstance(value, (int, float, np.floating)):
            raise ConfigError(f"metric {name!r} gave {type(value).__name__}: expected a number")
        found[name] = float(value)
    return found


def _of_latents(z_ND: NDArray[Any], y_N: NDArray[Any], tree: Taxonomy, labels: LabelEmbeddings) -> dict[str, float]:
    """The geometry of the latent space."""
    parent_C = tree.parent_C
    fine = semantic_correlation(z_ND, y_N, labels.fine_CD)
    coarse = (NAN, NAN) if tree.flat else semantic_correlation(z_ND, parent_C[y_N], labels.coarse_KD)
    return {
        "nn_hit": NAN if tree.flat else nn_hit(z_ND, y_N, parent_C),
        "silhouette": NAN if tree.flat else silhouette(z_ND, parent_C[y_N]),
        "spearman_fine": fine[0],
        "pearson_fine": fine[1],
        "spearman_coarse": coarse[0],
        "pearson_coarse": coarse[1],
    }


# ---------------------------------------------------------------------- accuracy
def top1(logits_NC: Array, y_N: Array) -> float:
    """Share of samples whose greatest logit is their class's, in [0, 1]. LARESA Eq. 6.

    With one logit a node (HACE) an internal node on top counts as wrong.
    """
    return _mean(_numpy(logits_NC).argmax(1) == _numpy(y_N))


def sibling_accuracy(pred_N: Array, y_N: Array, tree: Taxonomy) -> float:
    """Share of samples whose predicted class has the true class's parent."""
    parents_V = np.asarray(tree.parents)
    return _mean(parents_V[_numpy(pred_N)] == parents_V[_numpy(y_N)])


def level_accuracies(pred_N: Array, y_N: Array, tree: Taxonomy) -> list[float]:
    """For h = 0, 1, ..., height of the tree: share of samples whose lowest common ancestor has height <= h.

    Entry 0 is top-1. In a tree whose leaves have one depth, entry h is the accuracy of the level h above the leaves.
    """
    lca_N = _lca_heights(pred_N, y_N, tree)
    return [_mean(lca_N <= height) for height in range(int(tree.heights.max()) + 1)]


def crm_predict(logits_NC: Array, tree: Taxonomy) -> NDArray[np.int64]:
    """argmin_k sum_j D[k, j] p_j (N): the class of least expected LCA height. CRM; needs no training of its own."""
    logits_NC = _numpy(logits_NC).astype(np.float64)
    p_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True, initial=-np.inf))
    p_NC /= p_NC.sum(1, keepdims=True)
    classes = len(tree.names)
    return (p_NC @ tree.lca_VV[:classes, :classes]).argmin(1)


# ---------------------------------------------------------------------- mistakes in the tree
def mistake_severity(pred_N: Array, y_N: Array, tree: Taxonomy) -> float:
    """Mean height (edges) of the lowest common ancestor over WRONG predictions; nan where none is wrong.

    It falls when mild mistakes are added, so it stands beside top-1, never alone. Bertinetto et al., after CRM.
    """
    lca_N = _lca_heights(pred_N, y_N, tree)
    return _mean(lca_N[_numpy(pred_N) != _numpy(y_N)])


def hierarchical_distance(pred_N: Array, y_N: Array, tree: Taxonomy) -> float:
    """Mean height (edges) of the lowest common ancestor over all predictions, 0 for a right one (distance @1)."""
    return _mean(_lca_heights(pred_N, y_N, tree))


def _lca_heights(pred_N: Array, y_N: Array, tree: Taxonomy) -> NDArray[np.int64]:
    return tree.lca_VV[_numpy(pred_N), _numpy(y_N)]


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

    Classes without samples are left out. A class without siblings can't hit, so the ceiling may lie under 1.
    """
    centroids_PD, present_P = class_centroids(z_ND, y_N)
    if len(present_P) < 2 or not np.isfinite(centroids_PD).all():
        return NAN
    distance_PP = cdist(centroids_PD, centroids_PD)
    np.fill_diagonal(distance_PP, np.inf)
    parent_P = _numpy(parent_C)[present_P]
    return _mean(parent_P[distance_PP.argmin(1)] == parent_P)


def silhouette(z_ND: Array, group_N: Array) -> float:
    """Mean silhouette (Euclidean) of samples in groups, in [-1, 1]; a group of one counts 0. LARESA Eq. 8.

    nan unless there are at least 2 groups and fewer groups than samples.
    """
    z_ND, group_N = _numpy(z_ND), _numpy(group_N)
    if not 2 <= len(np.unique(group_N)) < len(group_N) or not np.isfinite(z_ND).all():
        return NAN
    return float(silhouette_score(z_ND, group_N))


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

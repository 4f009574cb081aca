"""Tree anchor: the latent turns to a point on the sphere that the tree gives its class: LARESA's anchor without text.

Source: Barz and Denzler, "Hierarchy-based Image Embeddings for Semantic Image Retrieval", WACV 2019,
https://arxiv.org/abs/1809.09924. Shapes: N samples, D latent dimensions, C classes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from laresa.terms import Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy


def tree_anchor_loss(unit_ND: Tensor, phi_ND: Tensor) -> Tensor:
    """1 - zhat . phi(y), per sample (N). Barz and Denzler, Eq. 7."""
    return 1 - (unit_ND * phi_ND).sum(-1)


def tree_embedding(tree: Taxonomy, width: int) -> np.ndarray:
    """phi: unit vectors C x D whose products are 1 - h_ij / h_max, h the common ancestor's height. Eq. 4 to 6.

    The triangular factor of that matrix, which is what the paper's Algorithm 1 builds row by row; in fewer dimensions
    than classes its leading eigenvectors, brought to length 1 (sec. 3.3), each with its greatest entry positive.
    """
    height_CC = tree.lca_VV[: tree.leaves, : tree.leaves]
    wanted_CC = 1 - height_CC / height_CC.max()
    if width >= tree.leaves:
        return np.pad(np.linalg.cholesky(wanted_CC), ((0, 0), (0, width - tree.leaves)))
    value_C, vector_CC = np.linalg.eigh(wanted_CC)
    greatest_C = vector_CC[np.abs(vector_CC).argmax(0), np.arange(tree.leaves)]
    phi_CD = ((vector_CC * np.sign(greatest_C)) * np.sqrt(value_C.clip(0)))[:, ::-1][:, :width]
    length_C1 = np.linalg.norm(phi_CD, axis=1, keepdims=True)
    return np.where(length_C1 > 1e-9, phi_CD / np.maximum(length_C1, 1e-9), 0.0)  # rounding is no direction


def tree_anchor(batch: Batch) -> Tensor:
    """`tree_anchor_loss`, per sample (N); under mixed targets the mean over their shares."""
    return 1 - batch.cosines_in(_phi(batch.tree, batch.z_ND.shape[-1], batch.z_ND.device, batch.z_ND.dtype))


@lru_cache(maxsize=64)
def _phi(tree: Taxonomy, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(tree_embedding(tree, width), device=device, dtype=dtype)


TERMS = {"tree_anchor": Term(tree_anchor, tree=True, labels=False)}

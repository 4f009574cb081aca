"""Probability mass over a tree's nodes, in log space."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from laresa.taxonomy import Taxonomy


def log_masses(log_p_NV: Tensor, tree: Taxonomy) -> Tensor:
    """log a_NV, a = R p: a node's own mass and all below it, from log p, never leaving log space. HACE Eq. 2.

    One logsumexp a level over (itself, its children), so memory grows with the widest family and not with V squared.
    A node without mass of its own has log p = -inf.
    """
    log_a_NV = log_p_NV
    for nodes_L, members in _families(tree, log_p_NV.device):
        padded = pad(log_a_NV, (0, 1), value=-torch.inf)
        family_NLM = padded.index_select(-1, members.flatten()).reshape(*log_a_NV.shape[:-1], *members.shape)
        log_a_NV = log_a_NV.index_copy(-1, nodes_L, family_NLM.logsumexp(-1))
    return log_a_NV


@lru_cache(maxsize=64)
def _families(tree: Taxonomy, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple(
        (torch.tensor(nodes, device=device), torch.tensor(rows, device=device)) for nodes, rows in tree.families
    )

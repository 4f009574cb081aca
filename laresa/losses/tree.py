"""What the losses over a tree share: mass over its nodes in log space, and tables that are made once a tree."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
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


def once_a_tree(
    table: Callable[[Taxonomy, Tensor, torch.device], Tensor],
) -> Callable[[Taxonomy, float | Tensor, torch.device, torch.dtype], Tensor]:
    """A table of (tree, number) in double precision, in the type that is asked for; kept unless the number is a tensor.

    A tensor is one head's own number under torch.func.vmap: the table is made at each step then.
    """

    @lru_cache(maxsize=64)
    def kept(tree: Taxonomy, number: float, device: torch.device, dtype: torch.dtype) -> Tensor:
        return table(tree, torch.tensor(number, dtype=torch.float64, device=device), device).to(dtype)

    @wraps(table)
    def made(tree: Taxonomy, number: float | Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        if isinstance(number, Tensor):
            return table(tree, number.double(), device).to(dtype)
        return kept(tree, float(number), device, dtype)

    return made


@lru_cache(maxsize=64)
def _families(tree: Taxonomy, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple(
        (torch.tensor(nodes, device=device), torch.tensor(rows, device=device)) for nodes, rows in tree.families
    )

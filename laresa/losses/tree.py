"""What the losses over a tree share: mass over its nodes in log space, sums along paths, tables made once a tree.

Shapes: N samples, C classes (leaves), V tree nodes (leaves first), U = V and a root where the tree has none (or is a
forest), S nodes on the longest path. Masses are node-major (U x N): a node's numbers over the batch lie side by side,
so that adding children to their parents is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from laresa.taxonomy import Taxonomy


def log_masses(logits: Tensor, tree: Taxonomy) -> Tensor:
    """log a_UN up to one constant a sample: a node's own exp(logit) and those of all below it, the root's last.

    logits: N x V, or N x C where only leaves have mass of their own. The constant is the last row: log a_v of a softmax
    is row v less that. A node's logsumexp is taken over itself and its children, level by level, so nothing underflows.
    a = R p, HACE Eq. 2.
    """
    found: Tensor = _Up.apply(logits, _levels(tree, logits.device))[0]
    return found


def along_paths(log_a_UN: Tensor, y_N: Tensor, weight_SC: Tensor, tree: Taxonomy) -> Tensor:
    """- sum_s w_s log a_{v_s} over the path v_0, v_1, ... of each sample's class, per sample (N)."""
    path_TN, weight_SN = _paths(tree, y_N.device)[:, y_N], weight_SC[:, y_N]
    log_a_TN = log_a_UN.gather(0, path_TN)  # the root's among them: one buffer on the way back
    return weight_SN.sum(0) * log_a_TN[-1] - (weight_SN * log_a_TN[:-1]).sum(0)


def over_nodes(log_a_UN: Tensor, weight_NV: Tensor) -> Tensor:
    """- sum_v w_v log a_v, per sample (N); weight_NV may be one row for all (V)."""
    log_a_VN = log_a_UN[: weight_NV.shape[-1]] - log_a_UN[-1]
    weight_VN = weight_NV[:, None] if weight_NV.ndim == 1 else weight_NV.T
    return -(weight_VN * log_a_VN).sum(0)


def on_nodes(weight_SC: Tensor, tree: Taxonomy) -> Tensor:
    """Weights along each class's path, written on the nodes: C x V."""
    weight_CV = torch.zeros(tree.leaves, len(tree.parents), dtype=weight_SC.dtype, device=weight_SC.device)
    return weight_CV.scatter_add(1, _paths(tree, weight_SC.device)[:-1].T, weight_SC.T)


def steps_SC(tree: Taxonomy, device: torch.device) -> tuple[Tensor, Tensor]:
    """(steps up from the class S x 1, whether its path is that long S x C)."""
    there_SC = torch.as_tensor(tree.paths_CS.T >= 0, device=device)
    return torch.arange(len(there_SC), device=device)[:, None], there_SC


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


@once_a_tree
def soft_labels(tree: Taxonomy, beta: Tensor, device: torch.device) -> Tensor:
    """Row t: the soft target of leaf t over the leaves, C x C; ~ exp(-beta d / d_max), d the common ancestor's height.

    Source: Bertinetto et al., CVPR 2020, Eq. 6.
    """
    distance_CC = torch.tensor(tree.lca_VV[: tree.leaves, : tree.leaves], dtype=torch.float64, device=device)
    return torch.softmax(-beta * distance_CC / distance_CC.max().clamp_min(1), 1)


@lru_cache(maxsize=64)
def _paths(tree: Taxonomy, device: torch.device) -> Tensor:
    """(S + 1) x C node numbers, the root's last; a path that has ended goes on at its class (with weight 0)."""
    ended_CS = np.where(tree.paths_CS < 0, tree.paths_CS[:, :1], tree.paths_CS)
    root = _levels(tree, device)[-1].first
    return torch.as_tensor(np.vstack((ended_CS.T, np.full(tree.leaves, root))), device=device)


# ---------------------------------------------------------------------- up and down the tree
@dataclass(frozen=True)
class _Level:
    """The nodes of one height, first to last; their children, and each child's parent counted from `first`.

    start, end: the children's place among all nodes in the order in which they are added to their parents.
    """

    first: int
    last: int
    start: int
    end: int
    child_L: Tensor
    parent_L: Tensor


@lru_cache(maxsize=64)
def _levels(tree: Taxonomy, device: torch.device) -> tuple[_Level, ...]:
    parents, heights = np.array(tree.parents), tree.heights
    if (parents < 0).sum() > 1:  # a root that isn't there
        parents = np.append(np.where(parents < 0, len(parents), parents), -1)
        heights = np.append(heights, heights.max() + 1)
    found: list[_Level] = []
    for height in range(1, int(heights.max()) + 1):
        first, last = np.searchsorted(heights, [height, height + 1]).tolist()
        children = np.flatnonzero((parents >= first) & (parents < last))
        start = found[-1].end if found else 0
        tensors = (torch.as_tensor(x, device=device) for x in (children, parents[children] - first))
        found.append(_Level(first, last, start, start + len(children), *tensors))
    return tuple(found)


class _Up(torch.autograd.Function):
    """By hand: autograd's chain through index and logsumexp took 26 times as long as cross-entropy.

    Gives log a_UN, and for the way down what makes up a mass: of each child exp(its log a - the greatest in the
    family), of each internal node the same of its own mass, and the sum of them all.
    """

    @staticmethod
    def forward(logits: Tensor, levels: tuple[_Level, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (n, width), leaves, nodes = logits.shape, levels[0].first, levels[-1].last
        log_a_UN = logits.new_empty(nodes, n)
        log_a_UN[:width] = logits.T
        log_a_UN[width:] = -torch.inf
        child_EN, own_IN, sum_IN = (logits.new_empty(rows, n) for rows in (nodes - 1, nodes - leaves, nodes - leaves))
        for level in levels:
            at, inner = slice(level.first, level.last), slice(level.first - leaves, level.last - leaves)
            child_LN = torch.index_select(log_a_UN, 0, level.child_L)
            parent_LN = level.parent_L[:, None].expand_as(child_LN)
            top_LN = log_a_UN[at].scatter_reduce(0, parent_LN, child_LN, "amax")
            top_LN.clamp_min_(torch.finfo(top_LN.dtype).min)  # a family without any mass has numbers, too
            torch.exp(child_LN.sub_(top_LN.index_select(0, level.parent_L)), out=child_EN[level.start : level.end])
            torch.exp(log_a_UN[at] - top_LN, out=own_IN[inner])
            sum_IN[inner] = own_IN[inner]
            sum_IN[inner].index_add_(0, level.parent_L, child_EN[level.start : level.end])
            torch.add(top_LN, sum_IN[inner].log(), out=log_a_UN[at])
        return log_a_UN, child_EN, own_IN, sum_IN

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[_Level, ...]], output: tuple[Tensor, ...]) -> None:
        logits, ctx.levels = inputs
        ctx.width = logits.shape[1]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad_UN: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        return _Down.apply(grad_UN, *ctx.saved_tensors, ctx.levels, ctx.width), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, logits: Tensor, levels: tuple[_Level, ...]) -> tuple[Any, tuple[int, ...]]:
        """K heads of N samples are K N samples."""
        found = _Up.apply(logits.movedim(in_dims[0], 0).flatten(0, 1), levels)
        return tuple(x.unflatten(1, (info.batch_size, -1)) for x in found), (1, 1, 1, 1)


class _Down(torch.autograd.Function):
    """What reaches a node goes to its own mass and to its children, by their shares: the gradient of `_Up`."""

    @staticmethod
    def forward(
        grad_UN: Tensor, child_EN: Tensor, own_IN: Tensor, sum_IN: Tensor, levels: tuple[_Level, ...], width: int
    ) -> Tensor:
        reached_UN, leaves = grad_UN.clone(memory_format=torch.contiguous_format), levels[0].first
        for level in reversed(levels):
            at, inner = slice(level.first, level.last), slice(level.first - leaves, level.last - leaves)
            each_LN = reached_UN[at] / sum_IN[inner]
            torch.mul(each_LN, own_IN[inner], out=reached_UN[at])
            part_LN = each_LN.index_select(0, level.parent_L).mul_(child_EN[level.start : level.end])
            reached_UN.index_add_(0, level.child_L, part_LN)
        return reached_UN[:width].T

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError("losses over a tree have no second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        *tensors, levels, width = inputs
        stacked = [
            (x.unsqueeze(1).expand(-1, info.batch_size, -1) if dim is None else x.movedim(dim, 1)).flatten(1)
            for x, dim in zip(tensors, in_dims, strict=False)
        ]
        return _Down.apply(*stacked, levels, width).unflatten(0, (info.batch_size, -1)), 0

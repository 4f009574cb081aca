"""What losses and metrics need to know of a Taxonomy, built once a tree: paths, heights, ancestor matrix, masses.

A tree has V nodes, its C leaves first. Where it has no root (several top nodes), an implied one lies above them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from laresa.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """The tables of one tree. Two trees with equal parents share one (see `hierarchy`), so `is` compares them."""

    parents: tuple[int, ...]  # of each of V nodes, -1 at the top
    n_leaves: int

    @cached_property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """For each of V nodes: the node itself, its parent, ..., its top node."""
        return tuple(self._path(node) for node in range(len(self.parents)))

    def _path(self, node: int) -> tuple[int, ...]:
        path = [node]
        while self.parents[path[-1]] >= 0:
            path.append(self.parents[path[-1]])
        return tuple(path)

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """Of each of V nodes, in edges: the longest way down to a leaf. Leaves have 0."""
        heights = [0] * len(self.parents)
        for leaf in range(self.n_leaves):
            for steps, node in enumerate(self.paths[leaf]):
                heights[node] = max(heights[node], steps)
        return tuple(heights)

    @cached_property
    def ancestors(self) -> np.ndarray:
        """R of HACE Eq. 2, V x V: R[i, j] is True where i is j or an ancestor of j."""
        ancestors_VV = np.zeros((len(self.parents),) * 2, dtype=bool)
        for node, path in enumerate(self.paths):
            ancestors_VV[list(path), node] = True
        return ancestors_VV

    @cached_property
    def lca_heights(self) -> np.ndarray:
        """V x V: height of the lowest common ancestor of two nodes (int64); the implied root is one above the tops."""
        lca_VV = np.full((len(self.parents),) * 2, max(self.heights) + 1, dtype=np.int64)
        for node in np.argsort(self.heights)[::-1]:  # from the top down: the lowest common ancestor writes last
            below = np.flatnonzero(self.ancestors[node])
            lca_VV[np.ix_(below, below)] = self.heights[node]
        return lca_VV

    @cached_property
    def families(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """For each height from 1 up: (nodes L, members L x M), a node's members being itself and its children.

        Rows are filled up with V, the index of no node.
        """
        children: list[list[int]] = [[node] for node in range(len(self.parents))]
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                children[parent].append(node)
        families = []
        for height in range(1, max(self.heights) + 1):
            nodes = [node for node, h in enumerate(self.heights) if h == height]
            width = max(len(children[node]) for node in nodes)
            rows = [children[node] + [len(self.parents)] * (width - len(children[node])) for node in nodes]
            families.append((np.array(nodes), np.array(rows)))
        return tuple(families)


def hierarchy(tree: Taxonomy) -> Hierarchy:
    """The tables of a tree. Only `tree.parents` and the number of `tree.names` are read."""
    return _hierarchy(np.ascontiguousarray(tree.parents, dtype=np.int64).tobytes(), len(tree.names))


@lru_cache(maxsize=32)
def _hierarchy(parents: bytes, n_leaves: int) -> Hierarchy:
    return Hierarchy(tuple(int(parent) for parent in np.frombuffer(parents, dtype=np.int64)), n_leaves)


def log_masses(log_p_NV: Tensor, tables: Hierarchy) -> Tensor:
    """log a_NV, a = R p: a node's own mass and all below it, from log p, never leaving log space.

    One logsumexp a level over (itself, its children), so memory grows with the widest family and not with V squared.
    A node without mass of its own has log p = -inf.
    """
    log_a_NV = log_p_NV
    for nodes_L, members in _families(tables, log_p_NV.device):
        padded = pad(log_a_NV, (0, 1), value=-torch.inf)
        family_NLM = padded.index_select(1, members.flatten()).reshape(len(log_p_NV), *members.shape)
        log_a_NV = log_a_NV.index_copy(1, nodes_L, family_NLM.logsumexp(-1))
    return log_a_NV


@lru_cache(maxsize=64)
def _families(tables: Hierarchy, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple(
        (torch.tensor(nodes, device=device), torch.tensor(rows, device=device)) for nodes, rows in tables.families
    )

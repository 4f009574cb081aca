"""Tree: what the numbers of the nodes say, names apart: paths, heights, common ancestors, levels."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class Tree:
    """A forest, its nodes numbered leaves first, then level by level upward: a parent stands above its children.

    parents: int64 [V], the parent's number; -1 at a top. No root is added: tops stay apart.
    """

    parents: NDArray[np.int64]

    @cached_property
    def leaves(self) -> int:
        """C, the number of classes: nodes without children, 0 to C - 1."""
        return len(self.parents) - len(set(self.parents.tolist()) - {-1})

    def ancestors(self, node: int) -> tuple[int, ...]:
        """Node numbers from the parent up to the top; the node itself is left out (`path` takes it in)."""
        return self.path(node)[1:]

    def path(self, node: int) -> tuple[int, ...]:
        """Node numbers from the node itself up to its top."""
        path = [int(node)]
        while self.parents[path[-1]] >= 0:
            path.append(int(self.parents[path[-1]]))
        return tuple(path)

    @cached_property
    def heights(self) -> NDArray[np.int64]:
        """int64 [V]: edges on the longest way down to a leaf."""
        heights = np.zeros(len(self.parents), dtype=np.int64)
        for node, parent in enumerate(self.parents):  # children come before their parents
            if parent >= 0:
                heights[parent] = max(heights[parent], heights[node] + 1)
        return heights

    def lca_height(self, i: int, j: int) -> int:
        """Height of the lowest common ancestor of two nodes; 0 for a leaf and itself.

        Nodes of different trees meet in a root that isn't there: one above the highest top.
        """
        return int(self.lca_VV[i, j])

    @cached_property
    def ancestor_VV(self) -> NDArray[np.bool_]:
        """R of HACE Eq. 2, V x V: R[i, j] is True where i is j or an ancestor of j."""
        ancestor_VV = np.zeros((len(self.parents),) * 2, dtype=bool)
        for node in range(len(self.parents)):
            ancestor_VV[list(self.path(node)), node] = True
        return ancestor_VV

    @cached_property
    def lca_VV(self) -> NDArray[np.int64]:
        """V x V: `lca_height` of every two nodes."""
        lca_VV = np.full((len(self.parents),) * 2, self.heights.max() + 1, dtype=np.int64)
        for node in np.argsort(self.heights)[::-1]:  # from the top down: the lowest common ancestor writes last
            below = np.flatnonzero(self.ancestor_VV[node])
            lca_VV[np.ix_(below, below)] = self.heights[node]
        return lca_VV

    @cached_property
    def steps_CV(self) -> NDArray[np.int64]:
        """int64 [C, V]: how many steps a node is up from a class; -1 where it does not stand above it."""
        steps_CV = np.full((self.leaves, len(self.parents)), -1, dtype=np.int64)
        for leaf in range(self.leaves):
            path = self.path(leaf)
            steps_CV[leaf, list(path)] = np.arange(len(path))
        return steps_CV

    @property
    def flat(self) -> bool:
        """No class has a parent: there is no tree. Each class is a coarse class of its own then."""
        return len(self.parents) == self.leaves

    @cached_property
    def coarse_nodes(self) -> tuple[int, ...]:
        """Node numbers of the K immediate parents of leaves, ascending; of a flat data set the classes themselves."""
        if self.flat:
            return tuple(range(self.leaves))
        return tuple(sorted({int(parent) for parent in self.parents[: self.leaves]}))

    @cached_property
    def paths_CS(self) -> NDArray[np.int64]:
        """int64 [C, S]: each class's path, from the class itself up; -1 where it has ended. S: the longest one."""
        paths = [self.path(leaf) for leaf in range(self.leaves)]
        paths_CS = np.full((self.leaves, max(map(len, paths))), -1, dtype=np.int64)
        for leaf, path in enumerate(paths):
            paths_CS[leaf, : len(path)] = path
        return paths_CS

    @cached_property
    def distance_CC(self) -> NDArray[np.int64]:
        """int64 [C, C]: edges on the way from class to class; tops hang on a root that isn't there."""
        steps_CV = np.where(self.steps_CV < 0, len(self.parents), self.steps_CV)
        tops_C = (self.paths_CS >= 0).sum(1)  # steps to the root above the top
        distance_CC = tops_C[:, None] + tops_C
        for steps_C in steps_CV.T:
            np.minimum(distance_CC, steps_C[:, None] + steps_C, out=distance_CC)
        return distance_CC

    def level(self, number: int) -> NDArray[np.int64]:
        """int64 [C]: each class's ancestor so many steps up (0: the class itself), its top where the path ends."""
        so_far_CS = self.paths_CS[:, : number + 1]
        return so_far_CS[np.arange(self.leaves), (so_far_CS >= 0).sum(1) - 1]

    @cached_property
    def levels(self) -> int:
        """Nodes on the longest path from a class to its top, both counted; 1 where there is no tree."""
        return int(self.heights.max()) + 1

    @cached_property
    def telling(self) -> int:
        """How many levels, from the classes up, tell any two classes apart: a root is none of them."""
        return sum(len(set(self.level(number).tolist())) > 1 for number in range(self.levels))

    @cached_property
    def parent_C(self) -> NDArray[np.int64]:
        """int64 [C]: each class's coarse label, its immediate parent renumbered 0..K-1."""
        if self.flat:
            return np.arange(self.leaves)
        return np.searchsorted(np.array(self.coarse_nodes), self.parents[: self.leaves]).astype(np.int64)

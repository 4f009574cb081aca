"""What a taxonomy may not be: each error names the node, what was expected, and where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laresa.errors import UNSAFE, DataError, nearest


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON would keep the last of two equal keys without a word."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DataError(f"{some(_repeated(keys))} is repeated in the taxonomy")
    return fields


def some(names: Sequence[str], limit: int = 8) -> str:
    listed = ", ".join(repr(name) for name in names[:limit])
    return listed + (f" and {len(names) - limit} more" if len(names) > limit else "")


def same_classes(paths: Iterable[str], classes: Sequence[str]) -> None:
    known, wanted = set(paths), set(classes)
    if len(wanted) < len(classes):
        raise DataError(f"class repeated: {some(_repeated(classes))}")
    for one, others, what in ((classes, known, "has no place in the taxonomy"), (paths, wanted, "is no class")):
        wrong = [name for name in one if name not in others]
        if wrong:
            raise DataError(f"{len(wrong)} of the names: {some(wrong)} {what}{nearest(wrong[0], others)}")


def parent_of(paths: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name -> parent's name; a name stands for one node, wherever it occurs."""
    parent: dict[str, str] = {}
    inner: set[str] = set()
    for leaf, above in paths.items():
        if isinstance(above, str) or not isinstance(above, Sequence) or not above:
            raise DataError(f"class {leaf!r} has no parent: expected a list of at least one name, got {above!r}")
        steps = [leaf, *above]
        for name in steps:
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"an empty name in the path of {leaf!r}: {steps!r}")
        if len(set(steps)) < len(steps):
            raise DataError(f"a cycle in the path of {leaf!r}: {' > '.join(steps)}")
        inner.update(above)
        for child, mother in zip(steps, above, strict=False):
            if parent.setdefault(child, mother) != mother:
                raise DataError(f"{child!r} has two parents: {parent[child]!r} and {mother!r}")
    both = sorted(inner & set(paths))
    if both:
        raise DataError(f"{some(both)} is both a class and a group: give the group another name")
    return parent


def heights_of(names: Sequence[str], parent: Mapping[str, str]) -> dict[str, int]:
    """Longest way down to a leaf, for every node, in the order in which the classes' paths meet them."""
    height = dict.fromkeys(names, 0)
    for name in names:
        steps, node = 0, name
        while node in parent:
            node, steps = parent[node], steps + 1
            if steps > len(parent):
                raise DataError(f"a cycle above {name!r}, through {node!r}")
            height[node] = max(height.get(node, 0), steps)
    return height


def check_nodes(names: Sequence[str], internal: Sequence[str], parents: NDArray[np.int64]) -> None:
    """DataError: the nodes and their parents are no forest over the classes, numbered children first."""
    nodes = (*names, *internal)
    for name in nodes:
        if UNSAFE.search(name) or "\n" in name or "\t" in name:
            raise DataError(f"the name {name!r} holds control characters or bytes that are not UTF-8: expected text")
    if len(set(nodes)) < len(nodes):
        raise DataError(f"a taxonomy's node names must differ: {some(_repeated(nodes))} stands twice")
    if not names or parents.shape != (len(nodes),):
        raise DataError(f"parents has shape {parents.shape}: expected one for {len(names)} + {len(internal)} nodes")
    if len(names) == 1:
        raise DataError(f"one class only, {names[0]!r}: expected two at least, else there is nothing to tell apart")
    for node, parent in enumerate(parents.tolist()):
        if parent >= len(nodes) or parent < -1:
            raise DataError(f"{nodes[node]!r} has parent {parent}: expected a node from 0 to {len(nodes) - 1}, or -1")
        if 0 <= parent <= node:
            raise DataError(
                f"{nodes[node]!r} (node {node}) has parent {nodes[parent]!r} ({parent}), which is a cycle or a wrong "
                "order: parents must be numbered above their children, tops be -1"
            )
        if 0 <= parent < len(names):
            raise DataError(f"{nodes[node]!r} has parent {nodes[parent]!r}, a class: expected an internal node")
    if childless := sorted(set(range(len(names), len(nodes))) - set(parents.tolist())):
        named = some([nodes[node] for node in childless])
        raise DataError(f"no path from a class reaches {named}: expected an internal node to have a class below it")


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)

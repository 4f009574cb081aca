"""From a data set's table of parents to a Taxonomy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from laresa.errors import DataError
from laresa.taxonomy import Taxonomy


def from_parents(
    leaves: Iterable[str], parent: Mapping[str, str], spoken: Mapping[str, str], *, notes: tuple[str, ...] = ()
) -> Taxonomy:
    """The tree above `leaves`, which are the classes, in their order; nodes with none of them below are left out.

    parent: node -> its parent, the top has none. spoken: node -> its name. The names in a tree must differ: of equal
    ones the lowest stays, a higher one becomes "Spitfire group", a second class "Spitfire (its node)".
    DataError: a cycle, a class that stands above another or has nothing above it.
    """
    paths = {leaf: _path(leaf, parent) for leaf in leaves}
    depth = {node: len(path) - i for path in paths.values() for i, node in enumerate(path)}
    inner = [node for node in spoken if node in depth.keys() - paths.keys()]
    for leaf, path in paths.items():
        if above := next((node for node in path[1:] if node in paths), None):
            raise DataError(f"{spoken[above]!r} ({above}) is a class, with images, and stands above {spoken[leaf]!r}")
    names: dict[str, str] = {}
    taken: set[str] = set()
    for node in [*paths, *sorted(inner, key=lambda node: -depth[node])]:
        name = spoken[node]
        while name in taken:
            name = f"{name} ({node})" if node in paths else f"{name} group"
        taken.add(name)
        names[node] = name
    named = {names[leaf]: [names[node] for node in path[1:]] for leaf, path in paths.items()}
    return Taxonomy.from_paths(named, notes=notes)


def _path(node: str, parent: Mapping[str, str]) -> list[str]:
    """From the node to its top, both included."""
    path = [node]
    while path[-1] in parent:
        above = parent[path[-1]]
        if above in path:
            raise DataError(f"a cycle in the tree: {' > '.join([*path[path.index(above) :], above])}")
        path.append(above)
    return path

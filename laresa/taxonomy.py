"""Taxonomy: class names and their ancestors; the mappings that ship."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laresa.errors import DataError, nearest

log = logging.getLogger(__name__)

TEXT_KINDS = ("name", "description")
FORMS = ("groups", "paths", "classes")  # of a taxonomy.json; the last is a flat data set's


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """A forest over the classes. Nodes are numbered leaves first, in class order, then level by level upward.

    names: the C classes (leaves), in class order: a label is an index into it.
    parents: int64 [V], the parent's node number; -1 at a top. A parent's number is above its children's.
    internal: names of the V - C nodes above the leaves; node C + i is internal[i].
    descriptions: node name -> text to embed instead of the name (see `texts`).
    notes: what a reader of results must know about this mapping; printed by `laresa data check`.

    A level is a node's height: the longest way down to a leaf (leaves 0). No root is added: tops stay apart.

    >>> tree = Taxonomy.from_groups({"pet": ["cat", "dog"], "tool": ["saw"]})
    >>> tree.names, tree.internal, tree.parents.tolist()
    (('cat', 'dog', 'saw'), ('pet', 'tool'), [3, 3, 4, -1, -1])
    >>> tree.lca_height(0, 1), tree.lca_height(0, 2)  # a cat and a dog are pets; a cat and a saw are nothing in common
    (1, 2)
    """

    names: tuple[str, ...]
    parents: NDArray[np.int64]
    internal: tuple[str, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parents = np.array(self.parents, dtype=np.int64)  # a copy: nobody else may write to it
        parents.setflags(write=False)
        object.__setattr__(self, "parents", parents)
        _check_nodes(self.names, self.internal, parents)
        for name in self.descriptions:
            if name not in self.node_names or not isinstance(self.descriptions[name], str):
                raise DataError(
                    f"description of {name!r}: no such class or group, or no text{nearest(name, self.node_names)}"
                )

    # ------------------------------------------------------------------ construction
    @classmethod
    def from_names(
        cls, names: Sequence[str], *, descriptions: Mapping[str, str] | None = None, notes: Iterable[str] = ()
    ) -> Taxonomy:
        """Classes without a tree above them."""
        wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
        if wrong:
            raise DataError(f"an empty name among the classes: {wrong[0]!r}")
        return cls(tuple(names), np.full(len(names), -1), (), dict(descriptions or {}), tuple(notes))

    @classmethod
    def from_groups(cls, groups: Mapping[str, Sequence[str]], **kwargs: Any) -> Taxonomy:
        """Two levels from {"coarse": ["fine", ...]}; keyword arguments as in `from_paths`."""
        paths: dict[str, tuple[str, ...]] = {}
        for group, members in groups.items():
            if isinstance(members, str) or not isinstance(members, Sequence) or not members:
                raise DataError(f"group {group!r} is empty: expected a list of class names, got {members!r}")
            for name in members:
                if name in paths:
                    raise DataError(f"class {name!r} is repeated: in group {paths[name][0]!r} and in {group!r}")
                paths[name] = (group,)
        return cls.from_paths(paths, **kwargs)

    @classmethod
    def from_paths(
        cls,
        paths: Mapping[str, Sequence[str]],
        *,
        classes: Sequence[str] | None = None,
        descriptions: Mapping[str, str] | None = None,
        notes: Iterable[str] = (),
    ) -> Taxonomy:
        """Any depth, ragged allowed, from {"leaf": ("parent", "grandparent", ...)}.

        classes: the class order; every class must have a path and every leaf be a class. Default: the order of `paths`.
        Raises DataError on an empty name, a class without a parent, a node with two parents, a cycle, a name that is
        both a class and a group, a class missing or too many (the nearest known name is given).
        """
        if classes is not None:
            _same_classes(paths, classes)
        names = tuple(paths if classes is None else classes)
        parent = _parent_of(paths)
        height = _heights(names, parent)
        internal = tuple(sorted((n for n in height if height[n]), key=lambda n: height[n]))  # stable: first seen first
        number = {name: i for i, name in enumerate(names + internal)}
        parents = np.array([number.get(parent.get(n, ""), -1) for n in number], dtype=np.int64)
        return cls(names, parents, internal, dict(descriptions or {}), tuple(notes))

    @classmethod
    def from_json(cls, path: str | Path, *, classes: Sequence[str] | None = None) -> Taxonomy:
        """From a taxonomy.json: {"groups": ...}, {"paths": ...} or {"classes": ...}; "descriptions", "notes"."""
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
            return cls.from_dict(fields, classes=classes)
        except OSError as error:
            raise DataError(f"can't read the taxonomy {path}: {error.strerror}") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is not JSON: {error}") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, classes: Sequence[str] | None = None) -> Taxonomy:
        """The inverse of `to_dict`; also takes {"groups": ...}."""
        known = (*FORMS, "descriptions", "notes")
        if not isinstance(fields, Mapping):
            raise DataError(f"a taxonomy is a JSON object, not {type(fields).__name__}")
        for name in fields:
            if name not in known:
                raise DataError(f"unknown key {name!r} in a taxonomy{nearest(name, known)}")
        forms = [form for form in FORMS if form in fields]
        if len(forms) != 1:
            raise DataError('a taxonomy needs either "groups", "paths" or, of a flat data set, "classes"')
        (form,), descriptions = forms, fields.get("descriptions", {})
        more = {"descriptions": descriptions, "notes": tuple(fields.get("notes", ()))}
        if not isinstance(fields[form], list if form == "classes" else Mapping) or not isinstance(
            descriptions, Mapping
        ):
            raise DataError("groups, paths and descriptions are JSON objects: {name: ...}; classes is a list of names")
        if form == "classes":
            return cls.from_names(fields[form], **more)
        make = cls.from_groups if form == "groups" else cls.from_paths
        return make(fields[form], classes=classes, **more)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in class order: {"paths": ... (or "classes"), "descriptions": ..., "notes": ...}."""
        more = {"descriptions": dict(self.descriptions), "notes": list(self.notes)}
        if self.flat:
            return {"classes": list(self.names), **more}
        paths = {name: [self.node_names[node] for node in self.ancestors(i)] for i, name in enumerate(self.names)}
        return {"paths": paths, **more}

    # ------------------------------------------------------------------ what the tree says
    @property
    def leaves(self) -> int:
        """C, the number of classes."""
        return len(self.names)

    @cached_property
    def node_names(self) -> tuple[str, ...]:
        """V names: classes, then internal nodes."""
        return self.names + self.internal

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
    def families(self) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        """For each height from 1 up: (nodes L, members L x M), a node's members being itself and its children.

        Rows are filled up with V, the index of no node.
        """
        children: list[list[int]] = [[node] for node in range(len(self.parents))]
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                children[parent].append(node)
        families = []
        for height in range(1, int(self.heights.max()) + 1):
            nodes = np.flatnonzero(self.heights == height)
            width = max(len(children[node]) for node in nodes)
            rows = [children[node] + [len(self.parents)] * (width - len(children[node])) for node in nodes]
            families.append((nodes, np.array(rows)))
        return tuple(families)

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
        return not self.internal

    @cached_property
    def coarse_nodes(self) -> tuple[int, ...]:
        """Node numbers of the K immediate parents of leaves, ascending; of a flat data set the classes themselves."""
        if self.flat:
            return tuple(range(self.leaves))
        return tuple(sorted({int(parent) for parent in self.parents[: self.leaves]}))

    def level(self, number: int) -> NDArray[np.int64]:
        """int64 [C]: each class's ancestor so many steps up (0: the class itself), its top where the path ends."""
        paths = (self.path(leaf) for leaf in range(self.leaves))
        return np.array([path[min(number, len(path) - 1)] for path in paths], dtype=np.int64)

    @cached_property
    def levels(self) -> int:
        """Nodes on the longest path from a class to its top, both counted; 1 where there is no tree."""
        return int(self.heights.max()) + 1

    @cached_property
    def coarse_names(self) -> tuple[str, ...]:
        """K names of the coarse classes."""
        return tuple(self.node_names[node] for node in self.coarse_nodes)

    @cached_property
    def parent_C(self) -> NDArray[np.int64]:
        """int64 [C]: each class's coarse label, its immediate parent renumbered 0..K-1."""
        if self.flat:
            return np.arange(self.leaves)
        return np.searchsorted(np.array(self.coarse_nodes), self.parents[: self.leaves]).astype(np.int64)

    def texts(self, kind: str = "name") -> tuple[str, ...]:
        """V texts to embed, by node number (the first C are the classes').

        "name": the name, underscores and hyphens turned into spaces. "description": the class's description; every
        class needs one, for a mixture of two kinds of text would be neither. A group without one is read by its name,
        with a warning that says which.
        """
        if kind not in TEXT_KINDS:
            raise DataError(f"unknown label text {kind!r}{nearest(kind, TEXT_KINDS)}")
        spoken = tuple(re.sub(r"[\s_-]+", " ", name).strip() for name in self.node_names)
        if kind == "name":
            return spoken
        missing = [name for name in self.names if name not in self.descriptions]
        if missing:
            raise DataError(f"label_text='description': no description of {_some(missing)}; add it to the taxonomy")
        unsaid = [name for name in self.internal if name not in self.descriptions]
        if unsaid:
            log.warning("no description of %s: read by name", _some(unsaid))
        return tuple(self.descriptions.get(name, text) for name, text in zip(self.node_names, spoken, strict=True))


def shipped(name: str) -> Taxonomy:
    """The mapping that ships for "cifar100", "cub200" or "tinyimagenet", classes in the data set's official order.

    Each JSON holds the mapping as the LARESA paper prints it (its tables 4 to 6). Two of them don't fit the data set;
    what is changed stands in "not_classes" and "added", and in the taxonomy's `notes`, logged as warnings:
    a name that no class bears is left out; a class that the paper doesn't map gets a group of ours.
    """
    fields = shipped_json(name)
    spare = set(fields.get("not_classes", ()))
    groups = {group: [n for n in members if n not in spare] for group, members in fields["groups"].items()}
    groups = {group: members for group, members in groups.items() if members}
    for group, members in fields.get("added", {}).items():
        groups.setdefault(group, []).extend(members)
    for note in fields.get("notes", ()):
        log.warning("%s: %s", name, note)
    return Taxonomy.from_groups(groups, classes=fields["classes"], notes=fields.get("notes", ()))


def shipped_json(name: str) -> dict[str, Any]:
    source = resources.files("laresa") / "data" / f"{name}.json"
    fields: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return fields


# ---------------------------------------------------------------------- checks
def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON would keep the last of two equal keys without a word."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DataError(f"{_some(sorted({k for k in keys if keys.count(k) > 1}))} is repeated in the taxonomy")
    return fields


def _some(names: Sequence[str], limit: int = 8) -> str:
    listed = ", ".join(repr(name) for name in names[:limit])
    return listed + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _same_classes(paths: Iterable[str], classes: Sequence[str]) -> None:
    known, wanted = set(paths), set(classes)
    if len(wanted) < len(classes):
        raise DataError(f"class repeated: {_some(sorted({c for c in classes if list(classes).count(c) > 1}))}")
    for some, others, what in ((classes, known, "has no place in the taxonomy"), (paths, wanted, "is no class")):
        wrong = [name for name in some if name not in others]
        if wrong:
            raise DataError(f"{len(wrong)} of the names: {_some(wrong)} {what}{nearest(wrong[0], others)}")


def _parent_of(paths: Mapping[str, Sequence[str]]) -> dict[str, str]:
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
        raise DataError(f"{_some(both)} is both a class and a group: give the group another name")
    return parent


def _heights(names: Sequence[str], parent: Mapping[str, str]) -> dict[str, int]:
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


def _check_nodes(names: Sequence[str], internal: Sequence[str], parents: NDArray[np.int64]) -> None:
    if len(set(names) | set(internal)) < len(names) + len(internal):
        raise DataError("a taxonomy's node names must differ")
    if not names or parents.shape != (len(names) + len(internal),):
        raise DataError(f"parents has shape {parents.shape}: expected one for {len(names)} + {len(internal)} nodes")
    if internal and (parents[: len(names)] < len(names)).any():
        raise DataError("the parent of a class must be an internal node")
    upward = (parents > np.arange(len(parents))) | (parents == -1)
    if not upward.all() or (parents >= len(parents)).any():
        raise DataError("parents must be numbered above their children, tops be -1")

"""Taxonomy: class names and their ancestors; the mappings that ship."""

from __future__ import annotations

import hashlib
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
from laresa.taxonomy_checks import check_nodes, heights_of, parent_of, same_classes, some, unique_keys
from laresa.tree import Tree

log = logging.getLogger(__name__)

TEXT_KINDS = ("name", "description")
FORMS = ("groups", "paths", "classes")  # of a taxonomy.json; the last is a flat data set's


@dataclass(frozen=True, eq=False)
class Taxonomy(Tree):
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
        check_nodes(self.names, self.internal, parents)
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
                if not isinstance(name, str):
                    raise DataError(f"group {group!r} holds {name!r}: expected names of classes")
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
            same_classes(paths, classes)
        names = tuple(paths if classes is None else classes)
        parent = parent_of(paths)
        height = heights_of(names, parent)
        internal = tuple(sorted((n for n in height if height[n]), key=lambda n: height[n]))  # stable: first seen first
        number = {name: i for i, name in enumerate(names + internal)}
        parents = np.array([number.get(parent.get(n, ""), -1) for n in number], dtype=np.int64)
        return cls(names, parents, internal, dict(descriptions or {}), tuple(notes))

    @classmethod
    def from_json(cls, path: str | Path, *, classes: Sequence[str] | None = None) -> Taxonomy:
        """From a taxonomy.json: {"groups": ...}, {"paths": ...} or {"classes": ...}; "descriptions", "notes"."""
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
            return cls.from_dict(fields, classes=classes)
        except OSError as error:
            raise DataError(f"can't read the taxonomy {path}: {error.strerror}") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of too many digits, nested too deep
            raise DataError(f"{path} is not JSON: {error}") from error

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
        (form,), descriptions, notes = forms, fields.get("descriptions", {}), fields.get("notes", [])
        if not isinstance(notes, list | tuple) or not all(isinstance(note, str) for note in notes):
            raise DataError("notes of a taxonomy are a list of texts")
        more = {"descriptions": descriptions, "notes": tuple(notes)}
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

    # ------------------------------------------------------------------ names
    @cached_property
    def node_names(self) -> tuple[str, ...]:
        """V names: classes, then internal nodes."""
        return self.names + self.internal

    @cached_property
    def coarse_names(self) -> tuple[str, ...]:
        """K names of the coarse classes."""
        return tuple(self.node_names[node] for node in self.coarse_nodes)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of sha256 over every class's name and path; neither order, descriptions nor notes count."""
        paths = sorted([self.node_names[node] for node in self.path(leaf)] for leaf in range(self.leaves))
        return hashlib.sha256(json.dumps(paths, separators=(",", ":")).encode()).hexdigest()[:16]

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
            raise DataError(f"label_text='description': no description of {some(missing)}; add it to the taxonomy")
        unsaid = [name for name in self.internal if name not in self.descriptions]
        if unsaid:
            log.warning("no description of %s: read by name", some(unsaid))
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

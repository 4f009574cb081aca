"""The classes of a data set and the groups it has already, without opening an image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from laresa import data
from laresa.coarsen.check import Groups
from laresa.data import cub200, tinyimagenet
from laresa.data.cifar100 import ABOUT as CIFAR100
from laresa.data.dataset import DataSource
from laresa.errors import DataError
from laresa.paths import expanded
from laresa.plugins import table
from laresa.taxonomy import Taxonomy, shipped
from laresa.taxonomy_checks import unique_keys

SHIPPED = (CIFAR100.name, cub200.ABOUT.name, tinyimagenet.ABOUT.name)
LISTS = (".txt", ".json")


@dataclass(frozen=True)
class Classes:
    """name: for files and messages. folder: where a taxonomy.json belongs, of a folder data set."""

    name: str
    tree: Taxonomy
    folder: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.tree.names

    @property
    def groups(self) -> Groups | None:
        """The mapping that the data set has, each class under its parent; None of a flat one."""
        return None if self.tree.flat else groups_of(self.tree)


def classes_of(dataset: str) -> Classes:
    """A data set's name, a folder of pictures, an .npz, or a file of names (.txt: one a line; .json: a list of names,
    or a taxonomy).

    Of cifar100, cub200 and tinyimagenet the names ship, so that the images needn't be here. DataError: no such thing,
    or classes that no taxonomy may have.
    """
    path = expanded(dataset, "data set")
    if dataset in SHIPPED:
        return Classes(dataset, shipped(dataset))
    if path.suffix in LISTS and not path.is_dir():
        return Classes(path.stem, _listed(path))
    found = table("DATASETS").get(dataset)
    if path.suffix == ".npz" or (found is not None and not (isinstance(found, DataSource) and found.source)):
        return Classes(path.stem, data.load(dataset).taxonomy)  # arrays: nothing to decode
    files = data.source(dataset)
    return Classes(files.name, files.taxonomy, path if path.is_dir() and found is None else None)


def groups_of(tree: Taxonomy) -> Groups:
    groups: dict[str, list[str]] = {name: [] for name in tree.coarse_names}
    for name, parent in zip(tree.names, tree.parent_C.tolist(), strict=True):
        groups[tree.coarse_names[parent]].append(name)
    return {group: tuple(members) for group, members in groups.items()}


def _listed(path: Path) -> Taxonomy:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
        if path.suffix == ".txt":
            return Taxonomy.from_names([line.strip() for line in text.splitlines() if line.strip()])
        found = json.loads(text, object_pairs_hook=unique_keys)
        return Taxonomy.from_names(found) if isinstance(found, list) else Taxonomy.from_dict(found)
    except OSError as error:
        raise DataError(f"can't read the class names {path}: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON
        raise DataError(f"{path} holds no class names: {error}") from error

"""Coarse labels where a data set has none: groups of its classes, by clustering their names or by a language model.

The LARESA paper asked GPT-4o for its groups and checked them by hand. Both ways here end in one validator
(`check_groups`) and in a taxonomy.json that a person reads and edits.

    classes.py   which classes there are, without an image
    check.py     what a grouping may not be, and what is worth a look
    cluster.py   groups from the embeddings of the names
    names.py     what the groups are called
    ask.py       groups from a language model; prompt.py what it is asked, endpoint.py how it is reached
    result.py    the file, and how a grouping differs from another
"""

from __future__ import annotations

from dataclasses import dataclass

from laresa.coarsen.check import Groups, check_groups
from laresa.coarsen.classes import Classes, classes_of

__all__ = ["Classes", "Coarse", "Groups", "check_groups", "classes_of"]


@dataclass(frozen=True)
class Coarse:
    """A grouping that `check_groups` has passed.

    notes: how it was made. warnings: what is worth a look. prompt: what a language model was asked, "" without one.
    """

    groups: Groups
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    prompt: str = ""

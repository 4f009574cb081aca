"""What a grouping of classes may not be, and what of it is worth a look: one validator, whoever made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from laresa.errors import UNSAFE, DataError, nearest

Groups = Mapping[str, Sequence[str]]

LARGE = 0.25  # of all classes: more in one group says little of them
UNEVEN = 4  # times the median group


def check_groups(groups: Groups | Iterable[tuple[str, Sequence[str]]], classes: Sequence[str]) -> list[str]:
    """What is worth a look: groups of one class, a very large one, uneven sizes, names that differ by case alone.

    groups: {group: its classes}, or pairs, in which a group may stand twice. DataError, with every fault by name: a
    class in no group or in two, a name that is no class (the nearest is given), an empty group, a group's name that is
    empty, doubled, not printable, or a class's.
    """
    pairs = _pairs(groups)
    if wrong := faults(pairs, classes):
        raise DataError("; ".join(wrong))
    return _warnings(pairs, len(classes))


def faults(
    groups: Groups | Iterable[tuple[str, Sequence[str]]], classes: Sequence[str], limit: int | None = 8
) -> list[str]:
    """One sentence a kind of fault, empty of a sound grouping. limit: how many names each lists; None for all."""
    pairs, known = _pairs(groups), set(classes)
    found = [fault for group, members in pairs if (fault := _shape(group, members))]
    if found:
        return found[:limit]
    names = Counter(group for group, _ in pairs)
    placed = Counter(name for _, members in pairs for name in members)
    unknown = [name for name in placed if name not in known]
    homes = {
        name: " and ".join(repr(group) for group, members in pairs for _ in range(list(members).count(name)))
        for name, count in placed.items()
        if count > 1
    }
    both = [name for name in names if name in known]
    found += _told("the name of more than one group", [name for name, count in names.items() if count > 1], limit)
    found += _told("both a class and a group (give the group another name)", both, limit)
    found += _told("in no group", [name for name in classes if name not in placed], limit)
    found += [f"{name!r} is in more than one place: {homes[name]}" for name in list(homes)[:limit]]
    found += [f"{name!r} is no class{_close(name, known)}" for name in unknown[:limit]]
    return found


def _pairs(groups: Groups | Iterable[tuple[str, Sequence[str]]]) -> list[tuple[str, Sequence[str]]]:
    return list(groups.items() if isinstance(groups, Mapping) else groups)


def _shape(group: Any, members: Any) -> str:
    if not isinstance(group, str) or not group.strip():
        return f"a group's name is empty: {group!r}"
    if UNSAFE.search(group) or "\n" in group or "\t" in group:
        return f"the group's name {group!r} can't be printed: expected text"
    if group != group.strip():
        return f"the group's name {group!r} has blanks around it"
    if isinstance(members, str) or not isinstance(members, Sequence):
        return f"group {group!r}: expected a list of class names, got {members!r}"
    if not members:
        return f"group {group!r} is empty"
    odd = [name for name in members if not isinstance(name, str)]
    return f"group {group!r} holds {odd[0]!r}: expected names of classes" if odd else ""


def _told(what: str, names: Sequence[str], limit: int | None) -> list[str]:
    return [f"{what}: {listed(names, limit)}"] if names else []


def listed(names: Sequence[str], limit: int | None = 8) -> str:
    limit = len(names) if limit is None else limit
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def _close(name: str, known: Iterable[str]) -> str:
    """The nearest class; of a name that is near to none, nothing: a list of all classes helps nobody."""
    near = nearest(name, known)
    return near if near.startswith("; did you mean") else ""


def _warnings(pairs: Sequence[tuple[str, Sequence[str]]], count: int) -> list[str]:
    sizes = {group: len(members) for group, members in pairs}
    found = []
    if single := [group for group, size in sizes.items() if size == 1]:
        found.append(f"{len(single)} of {len(sizes)} groups hold one class only: {listed(single)}")
    largest = max(sizes, key=lambda group: sizes[group])
    # With few groups a quarter of the classes each is what even ones have.
    if len(sizes) == 1 or sizes[largest] > max(LARGE, 2 / len(sizes)) * count:
        found.append(f"group {largest!r} holds {sizes[largest]} of {count} classes")
    middle = median(sizes.values())
    if sizes[largest] >= UNEVEN * middle:
        smallest = min(sizes.values())
        found.append(f"groups differ widely in size: {smallest} to {sizes[largest]} classes, median {middle:g}")
    spellings = Counter(group.casefold() for group in sizes)
    if alike := [group for group in sizes if spellings[group.casefold()] > 1]:
        found.append(f"groups whose names differ by case alone: {listed(alike)}")
    return found

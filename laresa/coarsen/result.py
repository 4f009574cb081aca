"""The file that a person edits, and how a grouping differs from another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laresa.coarsen import Coarse, Groups, check_groups
from laresa.coarsen.check import listed
from laresa.coarsen.classes import groups_of
from laresa.errors import ConfigError, DataError
from laresa.files import atomic_write
from laresa.taxonomy import Taxonomy
from laresa.taxonomy_checks import unique_keys


def prompt_file(out: Path) -> Path:
    """Beside the result: pets-coarse.json has pets-coarse.prompt.txt."""
    return out.with_suffix(".prompt.txt")


def may_write(out: Path, *, prompt: bool, force: bool) -> None:
    """ConfigError for what would be overwritten: asked before the work, and again by `write`."""
    for path in (out, *([prompt_file(out)] if prompt else [])):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: expected --out FILE")
        if path.exists() and not force:
            raise ConfigError(f"{path} is there already: --force replaces it, --out names another")


def write(coarse: Coarse, classes: Sequence[str], out: Path, *, force: bool = False) -> None:
    """As a taxonomy.json of {"groups", "notes"}; the prompt beside it. DataError before anything is written if no
    taxonomy can be made of it; ConfigError as of `may_write`."""
    fields = {"groups": {name: list(members) for name, members in coarse.groups.items()}, "notes": list(coarse.notes)}
    Taxonomy.from_dict(fields, classes=classes)
    may_write(out, prompt=bool(coarse.prompt), force=force)
    if coarse.prompt:
        atomic_write(prompt_file(out), coarse.prompt)
    atomic_write(out, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def read(path: Path, classes: Sequence[str]) -> tuple[Groups, list[str]]:
    """A taxonomy.json, perhaps edited by hand: (its groups, what is worth a look). DataError names every fault."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        if isinstance(fields, dict) and isinstance(fields.get("groups"), dict):
            check_groups(fields["groups"], classes)  # all faults at once, where a Taxonomy would tell the first
    except OSError as error:
        raise DataError(f"can't read the groups {path}: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    tree = Taxonomy.from_json(path, classes=classes)
    if tree.flat:
        raise DataError(f"{path} has no groups: expected {{'groups': {{...}}}}")
    groups = groups_of(tree)
    return groups, check_groups(groups, classes)


@dataclass(frozen=True)
class Difference:
    """ari, nmi: adjusted Rand index and normalised mutual information; equal: 1. lines: group by group."""

    ari: float
    nmi: float
    lines: tuple[str, ...]


def compare(groups: Groups, other: Groups) -> Difference:
    """Two groupings of the same classes. Groups are matched so that most classes stay (the Hungarian method)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    here, there = ({name: group for group, members in one.items() for name in members} for one in (groups, other))
    if here.keys() != there.keys():
        raise DataError(f"two groupings of different classes: {listed(sorted(here.keys() ^ there.keys()))}")
    shared = np.array([[len({*members} & {*others}) for others in other.values()] for members in groups.values()])
    rows, columns = linear_sum_assignment(-shared)
    match = {list(groups)[r]: list(other)[c] for r, c in zip(rows, columns, strict=True) if shared[r, c]}
    lines = [_line(group, groups[group], match.get(group), there) for group in groups]
    lines += [_gone(group, other[group], here) for group in other if group not in match.values()]
    names = list(here)
    ours, theirs = [here[name] for name in names], [there[name] for name in names]
    return Difference(
        float(adjusted_rand_score(theirs, ours)),
        float(normalized_mutual_info_score(theirs, ours)),
        tuple(lines),
    )


def _line(group: str, members: Sequence[str], matched: str | None, there: dict[str, str]) -> str:
    came = [name for name in members if there[name] != matched]
    if matched is None:
        return f"{group} ({len(members)}), in place of none: {_whence(came, there)}"
    if left := [name for name, home in there.items() if home == matched and name not in members]:
        gone = f"; gone: {', '.join(left)}"
    else:
        gone = ""
    head = f"{group} ({len(members)}), in place of {matched}: {len(members) - len(came)} stay"
    return head + (f"; come: {_whence(came, there)}" if came else "") + gone


def _gone(group: str, members: Sequence[str], here: dict[str, str]) -> str:
    return f"{group} ({len(members)}) has no counterpart: now {_whence(members, here, 'in')}"


def _whence(names: Sequence[str], homes: dict[str, str], word: str = "from") -> str:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(homes[name], []).append(name)
    return ", ".join(f"{', '.join(found)} ({word} {group})" for group, found in groups.items())

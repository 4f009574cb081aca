"""Groups from a language model: asked, looked at, asked again; kept, so that the same question costs nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laresa.coarsen import Coarse, check_groups
from laresa.coarsen.check import faults
from laresa.coarsen.endpoint import LONGEST, Endpoint, TryAgainError, chat
from laresa.coarsen.prompt import SCHEMA, asked_again, first_messages, readable
from laresa.data.known import plain
from laresa.errors import ConfigError, DataError, StorageError
from laresa.files import atomic_write
from laresa.labels import cache_folder

log = logging.getLogger(__name__)

TRIES = 5  # requests, whatever went wrong with each
PAUSE = 1.0  # seconds before the second request; doubled each time, unless the server says how long

LENGTH = 500  # of what is told of an answer, whose names may have any length

Pairs = list[tuple[str, list[str]]]


def ask(classes: Sequence[str], endpoint: Endpoint, *, count: int | None = None) -> Coarse:
    """Groups of the classes as a language model makes them. count: of groups; None leaves it to the model.

    A used answer is kept under `cache_folder()`/coarsen by endpoint, model and question. DataError: after TRIES
    requests there is none, with what was wrong with the last, or the endpoint refuses.
    """
    if count is not None and not 1 <= count <= len(classes):
        raise ConfigError(f"--groups {count}: expected 1 to {len(classes)}, the number of classes")
    question = first_messages(classes, count)
    path = _kept(endpoint, question)
    pairs = _known(path, classes)
    if pairs is None:
        pairs = _asked(classes, endpoint, question)
        _keep(path, pairs)
    groups = {name: tuple(members) for name, members in pairs}
    warnings = check_groups(groups, classes)
    if count is not None and len(groups) != count:
        warnings.append(f"{len(groups)} groups, where {count} were asked for")
    note = (
        f"{len(groups)} groups by the language model {endpoint.model} at {endpoint.url}; made by `laresa data coarsen`"
    )
    return Coarse(
        groups, (note, "a language model made the groups: read them before use"), tuple(warnings), readable(question)
    )


def _asked(classes: Sequence[str], endpoint: Endpoint, question: list[dict[str, str]]) -> Pairs:
    messages, wrong = list(question), ""
    for number in range(TRIES):
        after: float | None = 0.0
        try:
            said = chat(endpoint, messages, SCHEMA)
        except TryAgainError as error:
            wrong, after = str(error), error.after
        else:
            found = _parsed(said, classes)
            mistakes = [found] if isinstance(found, str) else faults(found, classes, limit=None)
            if not isinstance(found, str) and not mistakes:
                return found
            # Of the answers only the last: what was wrong before is mended or told again.
            messages = [*question, {"role": "assistant", "content": said}, asked_again(mistakes)]
            wrong = "; ".join(mistakes if isinstance(found, str) else faults(found, classes))[:LENGTH]
        if number < TRIES - 1:
            log.warning("request %d of %d: %s; asking again", number + 1, TRIES, wrong)
            time.sleep(min(PAUSE * 2**number, LONGEST) if after is None else after)
    raise DataError(f"{endpoint.model} at {endpoint.url} gave no grouping in {TRIES} requests; the last: {wrong}")


def _parsed(said: str, classes: Sequence[str]) -> Pairs | str:
    """The groups, or what is wrong with the answer's shape. A name spelled otherwise is the class it must mean."""
    try:
        fields = json.loads(_unfenced(said))
    except (ValueError, RecursionError):
        return "the answer is not JSON"
    groups = fields.get("groups") if isinstance(fields, dict) else None
    if not isinstance(groups, list) or not groups or not all(_is_group(group) for group in groups):
        return 'the answer has another shape than {"groups": [{"name": "...", "classes": ["...", ...]}, ...]}'
    known, spelled = set(classes), _spellings(classes)
    return [
        (
            group["name"].strip(),
            [name if name in known else spelled.get(plain(name), name) for name in group["classes"]],
        )
        for group in groups
    ]


def _unfenced(said: str) -> str:
    """Without the ```json around it, which models add where a server does not keep to the schema."""
    lines = said.strip().splitlines()
    fenced = len(lines) > 2 and lines[0].startswith("```") and lines[-1].startswith("```")
    return "\n".join(lines[1:-1]) if fenced else said


def _is_group(group: Any) -> bool:
    if not isinstance(group, dict) or not isinstance(group.get("name"), str):
        return False
    members = group.get("classes")
    return isinstance(members, list) and all(isinstance(name, str) for name in members)


def _spellings(classes: Sequence[str]) -> Mapping[str, str]:
    """Letters and digits -> the class; those that two classes share are left out."""
    reduced = [plain(name) for name in classes]
    counts = Counter(reduced)
    return {key: name for key, name in zip(reduced, classes, strict=True) if key and counts[key] == 1}


# ---------------------------------------------------------------------- the cache
def _kept(endpoint: Endpoint, question: Sequence[Mapping[str, str]]) -> Path:
    identity = json.dumps([endpoint.url, endpoint.model, list(question), SCHEMA])
    return cache_folder() / "coarsen" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"


def _known(path: Path, classes: Sequence[str]) -> Pairs | None:
    try:
        pairs = [(name, members) for name, members in json.loads(path.read_text(encoding="utf-8"))["groups"]]
        check_groups(pairs, classes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:  # a DataError is a ValueError
        log.warning("the kept answer %s can't be used (%s): asking again", path, error)
        return None
    return pairs


def _keep(path: Path, pairs: Pairs) -> None:
    """A full or read-only disk costs only the cache."""
    try:
        atomic_write(path, json.dumps({"groups": pairs}, ensure_ascii=False, indent=1) + "\n")
    except StorageError as error:
        log.warning("the answer isn't kept: %s", error)

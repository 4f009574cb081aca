"""What the drivers and workers of all sweeps on one Ray tell each other: small texts by name, kept by Ray's head."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

PLACE = "laresa"


class AwayError(ConnectionError):
    """Ray's head does not answer: nothing is told, and nothing known."""


def stops_of(parent_run_id: str) -> str:
    """By which name a sweep's driver tells which of its trials, by key, the user wants to stop."""
    return f"stop/{parent_run_id}"


def put(name: str, value: Any) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    with _asking():
        _internal_kv_put(name, json.dumps(value), namespace=PLACE)


def get(name: str) -> Any:
    """None where nothing is told by that name, or there is no Ray."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_initialized

    with _asking():
        found = _internal_kv_get(name, namespace=PLACE) if _internal_kv_initialized() else None
    return None if found is None else json.loads(found)


def get_all(prefix: str) -> dict[str, Any]:
    """By name; what is taken away meanwhile is left out."""
    from ray.experimental.internal_kv import _internal_kv_list

    with _asking():
        names = [key.decode() for key in _internal_kv_list(prefix, namespace=PLACE)]
    found = {name: get(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def take_away(name: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    with _asking():
        _internal_kv_del(name, namespace=PLACE)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError) as error:
        raise AwayError(str(error)) from error

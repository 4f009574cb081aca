"""What the drivers and workers of all sweeps on one Ray tell each other: small texts by name, kept by Ray's head."""

from __future__ import annotations

import json
from typing import Any

PLACE = "laresa"


def stops_of(parent_run_id: str) -> str:
    """By which name a sweep's driver tells which of its trials, by key, the user wants to stop."""
    return f"stop/{parent_run_id}"


def put(name: str, value: Any) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(name, json.dumps(value), namespace=PLACE)


def get(name: str) -> Any:
    """None where nothing is told by that name, or there is no Ray."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_initialized

    found = _internal_kv_get(name, namespace=PLACE) if _internal_kv_initialized() else None
    return None if found is None else json.loads(found)


def get_all(prefix: str) -> dict[str, Any]:
    """By name; what is taken away meanwhile is left out."""
    from ray.experimental.internal_kv import _internal_kv_list

    found = {name: get(name) for name in (key.decode() for key in _internal_kv_list(prefix, namespace=PLACE))}
    return {name: value for name, value in found.items() if value is not None}


def take_away(name: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(name, namespace=PLACE)

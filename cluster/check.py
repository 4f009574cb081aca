"""Is a cluster YAML what Ray understands? Says which key is wrong, before any host is touched."""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

LOCAL_PROVIDER = ("type", "head_ip", "worker_ips", "coordinator_address", "external_head_ip", "use_internal_ips")


def check(path: Path) -> list[str]:
    """What is wrong with the file, a line each; nothing if Ray would take it."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        return [f"{path} can't be read: {error.strerror}"]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date that is none
        return [f"{path} is no YAML: {' '.join(str(error).split())}"]
    if not isinstance(config, dict):
        return [f"{path}: expected keys and values"]
    return [f"{path}: {fault}" for fault in list(_faults(config)) or list(_ray_says(config))]


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    schema = _schema()
    wrong = [key for key in ("provider", "auth", "docker") if not isinstance(config.get(key) or {}, dict)]
    if wrong:
        yield f"{wrong[0]}: expected keys and values"
        return
    local = ("min_workers",) if (config.get("provider") or {}).get("type") == "local" else ()
    yield from _unknown(config, [*schema["properties"], *local], "")
    for section in ("auth", "docker"):
        yield from _unknown(config.get(section) or {}, schema["properties"][section]["properties"], f"{section}.")
    provider = config.get("provider") or {}
    if provider.get("type") == "local":
        yield from _unknown(provider, LOCAL_PROVIDER, "provider.")
        if not provider.get("coordinator_address") and not {"head_ip", "worker_ips"} <= set(provider):
            yield "provider: a local cluster needs head_ip and worker_ips"


def _unknown(found: Mapping[str, Any], known: Any, prefix: str) -> Iterator[str]:
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            yield f"unknown key {prefix}{key}" + (f"; did you mean {prefix}{near[0]}?" if near else "")


def _ray_says(config: Mapping[str, Any]) -> Iterator[str]:
    """Ray's own defaults, schema and validation."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    quiet = contextlib.redirect_stdout(io.StringIO())
    logging.disable()
    try:
        with quiet:
            validate_config(prepare_config(copy.deepcopy(dict(config))))
    except Exception as error:  # Ray raises whatever it stumbled over
        where = ".".join(str(part) for part in getattr(error, "absolute_path", ()))
        reason = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        yield f"{where + ': ' if where else ''}{reason}"
    finally:
        logging.disable(logging.NOTSET)


def _schema() -> Mapping[str, Any]:
    import ray.autoscaler

    schema: Mapping[str, Any] = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    return schema

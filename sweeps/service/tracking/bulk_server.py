"""The bulk endpoint of our MLflow: opens, measures and ends many runs in one request, in one transaction.

    GET  PATH    {"laresa_bulk": VERSION}: whoever asks knows that the endpoint is there
    POST PATH    {"runs": [entry, ...]} -> {"runs": [answer, ...]}, in the same order

An entry is {"run_id"}, or {"experiment_id", "find": {tag: value}, "new": {"tags", "params", "start_time"}}: the oldest
run that is active and has these tags, else a new one; what "new" says of parameters is written where it has none. All
else is optional: "metrics" [[key, value, timestamp, step], ...], "params", "tags", "drop_tags" [key, ...], "status",
"end_time". An answer is {"run_id", "artifact_uri", "others": ids of more runs with the tags}, or {"error_code",
"message"} for an entry that is refused: of that nothing is written, and of the others all, or, if the request fails,
nothing. The same request again writes nothing twice. Numbers are Python's JSON: NaN and Infinity are among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flask import Response, request
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.server.handlers import _get_tracking_store, catch_mlflow_exception
from mlflow.server.validation import _validate_content_type
from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

from sweeps.service.tracking.bulk import PATH, VERSION
from sweeps.service.tracking.bulk_write import INSERT, Entry, Permitted, bad, write_runs

MAX_ENTRIES, MAX_METRICS = 500, 50_000  # of a request
INT64 = 2**63


def add_route(app: Any, permitted: Permitted) -> None:
    """The endpoint on MLflow's Flask application. permitted: who may write where; asked for every request."""

    @catch_mlflow_exception
    def bulk() -> Response:
        store = _get_tracking_store()
        if getattr(store, "db_type", None) not in INSERT:
            return Response(status=404)  # files, or a database whose dialect we don't write
        if request.method != "POST":
            return _json({"laresa_bulk": VERSION})
        _validate_content_type(request, ["application/json"])
        entries = [accepted(entry) for entry in _entries(request.get_data())]
        return _json({"runs": write_runs(store, entries, permitted)})

    app.add_url_rule(PATH, "laresa_bulk", bulk, methods=["GET", "POST"])


def _json(answer: Mapping[str, Any]) -> Response:
    return Response(json.dumps(answer), mimetype="application/json")


def _entries(body: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(body)["runs"]
        sizes = [len(entry.get("metrics", ())) for entry in entries]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise bad('expected {"runs": [{...}, ...]}') from error
    if len(sizes) > MAX_ENTRIES or sum(sizes) > MAX_METRICS:
        found = f"{len(sizes)} runs with {sum(sizes)} metrics"
        raise bad(f"{found}: expected at most {MAX_ENTRIES} with {MAX_METRICS}")
    return list(entries)


# ---------------------------------------------------------------------- under MLflow's rules on names and values


def accepted(entry: Mapping[str, Any]) -> Entry | MlflowException:
    """The entry, or why it is refused."""
    try:
        new, status, end_time = entry.get("new") or {}, entry.get("status"), entry.get("end_time")
        parsed = Entry(
            run_id=entry.get("run_id"),
            experiment_id=str(entry.get("experiment_id", "")),
            find=_tags(entry.get("find")),
            new_tags=_tags(new.get("tags")),
            new_params=_params(new.get("params")),
            start_time=_int64("start_time", new.get("start_time", 0)),
            metrics=_metrics(entry.get("metrics", ())),
            params=_params(entry.get("params")),
            tags=_tags(entry.get("tags")),
            drop_tags=[str(key) for key in entry.get("drop_tags", ())],
            status=None if status is None else RunStatus.to_string(RunStatus.from_string(status)),
            end_time=None if end_time is None else _int64("end_time", end_time),
        )
        found = parsed.run_id is None and parsed.find and parsed.experiment_id.isdecimal()
        if not isinstance(parsed.run_id, str) and not found:
            raise bad("expected a run_id, or an experiment_id and the tags to find a run by")
        return parsed
    except MlflowException as error:
        return error
    except Exception as error:  # something is not what its place says
        return bad(f"{type(error).__name__}: {error}")


def _tags(given: Mapping[str, str] | None) -> dict[str, str]:
    tags = [_validate_tag(key, _text(value)) for key, value in (given or {}).items()]
    return {tag.key: tag.value for tag in tags}


def _params(given: Mapping[str, str] | None) -> dict[str, str]:
    params = [_validate_param(key, _text(value)) for key, value in (given or {}).items()]
    return {param.key: param.value for param in params}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise bad(f"{value!r}: expected text")
    return value


def _metrics(given: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    rows = []
    for key, value, timestamp, step in given:
        _validate_metric(key, value, timestamp, step)
        times = {"timestamp": _int64("timestamp", timestamp), "step": _int64("step", step)}
        rows.append({"key": key, "value": float(value), **times})
    return rows


def _int64(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -INT64 <= value < INT64:
        raise bad(f"{name}={value!r}: expected an integer of 64 bits")
    return value

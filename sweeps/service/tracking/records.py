"""Read side: what a sweep measured, as TrialRecords. Needs the MLflow client only: no Ray, no torch."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig
from laresa.errors import ConfigError, nearest
from laresa.measurement import Measurement
from sweeps.service.tracking.local_server import LocalServer
from sweeps.service.tracking.write import check, client, fetch_artifact, run_or_none, sweep_url

SCHEMA_VERSION = 1
DOWNLOADS = 8  # at once
STATES = ("finished", "pruned", "failed", "interrupted", "running")


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the tracker keeps it.

    arm: label of the study's cell ("ce+anchor", "ce+anchor+triplet+reg, shuffled labels").
    metrics: the last value of each metric; "test/..." and "best/..." are from the epoch best on validation.
    history: one Measurement an epoch, in order.
    provenance: versions, git commit, host, data set fingerprint, fold, ...
    """

    sweep: str
    signature: str
    run_id: str
    arm: str
    config: TrialConfig
    state: str
    metrics: Mapping[str, float]
    history: tuple[Measurement, ...] = ()
    error: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "schema_version": self.schema_version,
            "sweep": self.sweep,
            "signature": self.signature,
            "run_id": self.run_id,
            "arm": self.arm,
            "config": self.config.to_dict(),
            "state": self.state,
            "metrics": dict(self.metrics),
            "history": [measurement.to_dict() for measurement in self.history],
            "error": self.error,
            "provenance": dict(self.provenance),
        }


def reading_uri(uri: str | None) -> str:
    """Where to read: as given, else MLFLOW_TRACKING_URI, else the local server, else its database without a server."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        check(uri)
        return uri
    server = LocalServer()
    return server.url() or server.store


def tracked_states(sweep: str, uri: str | None) -> dict[str, str]:
    """signature -> state of every trial the tracker holds for a sweep; empty for a sweep it does not know."""
    uri = reading_uri(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return {}
    experiment = client(uri).get_experiment_by_name(sweep)
    if experiment is None:
        return {}
    runs = runs_of(client(uri), experiment.experiment_id, "")
    return {run.data.tags["laresa.signature"]: run.data.tags.get("laresa.state", "interrupted") for run in runs}


def trials(
    sweep: str,
    *,
    where: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
    with_history: bool = False,
) -> list[TrialRecord]:
    """Every trial of a sweep, oldest first, in whatever state.

    where: field of TrialConfig (or "arm", "state") -> value it must have.
    with_history: also fetch each trial's measurements by epoch (one file a trial).
    ConfigError: no such sweep; unknown field in `where`.
    """
    uri = reading_uri(tracking_uri)
    api, experiment_id = open_experiment(uri, sweep)
    conditions = conditions_of(where or {})
    # One without parameters is only being opened, and not yet a trial's record.
    runs = [run for run in runs_of(api, experiment_id, conditions) if run.data.params]
    if not with_history:
        return [record_from(sweep, run) for run in runs]
    with ThreadPoolExecutor(DOWNLOADS) as pool:  # each waits for the server most of the time
        return list(pool.map(lambda run: _with_history(uri, sweep, run), runs))


def record_of(run_id: str, *, tracking_uri: str | None = None) -> TrialRecord:
    """One trial with its history, by its run id. ConfigError: no such run, or it is not a trial's."""
    uri = reading_uri(tracking_uri)
    api = client(uri)
    run = run_or_none(api, run_id)
    if run is None:
        raise ConfigError(f"no run {run_id!r} at {uri}: `laresa status SWEEP --json` shows each trial's run_id")
    if run.data.tags.get("laresa.kind") != "trial":
        raise ConfigError(f"run {run_id} is not a trial's: `laresa status SWEEP --json` shows each trial's run_id")
    return _with_history(uri, run.data.tags["laresa.sweep"], run)


def latents(record: TrialRecord, *, tracking_uri: str | None = None) -> Mapping[str, Any] | None:
    """The arrays of a trial's latents.npz; None for a trial that has none (it did not finish)."""
    import numpy as np

    if record.state != "finished":
        return None
    with tempfile.TemporaryDirectory() as folder:
        api = client(reading_uri(tracking_uri))
        with np.load(api.download_artifacts(record.run_id, "latents.npz", folder)) as arrays:
            return {name: arrays[name] for name in arrays.files}


def attach_report(sweep: str, folder: Path, *, tracking_uri: str | None = None) -> None:
    """Log a report to the sweep's parent run, so that it opens in MLflow's UI."""
    uri = reading_uri(tracking_uri)
    api, experiment_id = open_experiment(uri, sweep)
    for parent in api.search_runs([experiment_id], "tags.`laresa.kind` = 'sweep'", max_results=1):
        api.log_artifacts(parent.info.run_id, str(folder), "report")


def space(sweep: str, *, tracking_uri: str | None = None) -> dict[str, Any] | None:
    """The Optuna distributions a sweep's search drew from, by field; None for a sweep that recorded none."""
    text = _parent_tag(sweep, "laresa.space", tracking_uri)
    if text is None:
        return None
    from optuna.distributions import json_to_distribution

    return {name: json_to_distribution(distribution) for name, distribution in json.loads(text).items()}


def objectives(sweep: str, *, tracking_uri: str | None = None) -> tuple[str, ...]:
    """The metrics a sweep's search looked for; validation top-1 for a sweep that recorded none."""
    text = _parent_tag(sweep, "laresa.objectives", tracking_uri)
    return ("val/top1",) if text is None else tuple(json.loads(text))


def plan_against_actual(sweep: str, *, tracking_uri: str | None = None) -> dict[str, tuple[float, float]] | None:
    """name -> (planned, actual) as the runner left it; None for a sweep that was not planned."""
    text = _parent_tag(sweep, "laresa.plan", tracking_uri)
    return None if text is None else {name: (pair[0], pair[1]) for name, pair in json.loads(text).items()}


def plugins_of(sweep: str, *, tracking_uri: str | None = None) -> dict[str, str]:
    """Plugin -> sha256 of those that a sweep was run with; empty for one that had none."""
    found: dict[str, str] = json.loads(_parent_tag(sweep, "laresa.plugins", tracking_uri) or "{}")
    return found


def _parent_tag(sweep: str, name: str, tracking_uri: str | None) -> str | None:
    api, experiment_id = open_experiment(reading_uri(tracking_uri), sweep)
    for parent in api.search_runs([experiment_id], "tags.`laresa.kind` = 'sweep'", max_results=1):
        tag: str | None = parent.data.tags.get(name)
        return tag
    return None


def experiment_url(sweep: str, uri: str) -> str | None:
    """Where the sweep opens in MLflow's UI; None where no server answers behind `uri`."""
    return sweep_url(uri, open_experiment(uri, sweep)[1]) if uri.startswith("http") else None


def as_frame(records: Sequence[TrialRecord]) -> Any:
    """pandas: one row a trial; columns are identity, state, config fields and metrics."""
    import pandas as pd

    identity = ("signature", "run_id", "arm", "state")
    return pd.DataFrame([{**{n: getattr(r, n) for n in identity}, **r.config.to_dict(), **r.metrics} for r in records])


def open_experiment(uri: str, sweep: str) -> tuple[Any, str]:
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise ConfigError(f"no sweep {sweep!r}: nothing was tracked in {uri.removeprefix('sqlite:///')} yet")
    api = client(uri)
    experiment = api.get_experiment_by_name(sweep)
    if experiment is None:
        known = [e.name for e in api.search_experiments(max_results=1000) if e.name != "Default"]
        raise ConfigError(f"no sweep {sweep!r} at {uri}{nearest(sweep, known)}")
    return api, experiment.experiment_id


def runs_of(api: Any, experiment_id: str, conditions: str) -> Iterator[Any]:
    """The runs of trials, oldest first."""
    token: str | None = None
    while True:
        rows = api.search_runs(
            [experiment_id],
            f"tags.`laresa.kind` = 'trial'{conditions}",
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from rows
        token = rows.token
        if not token:
            return


def conditions_of(where: Mapping[str, Any]) -> str:
    fields = {field.name for field in dataclasses.fields(TrialConfig)}
    conditions = ""
    for name, value in where.items():
        if name in ("arm", "state"):
            key = f"tags.`laresa.{name}`"
        elif name in fields:
            key = f"params.`{name}`"
        else:
            raise ConfigError(f"where: unknown field {name!r}{nearest(name, fields | {'arm', 'state'})}")
        text = value if isinstance(value, str) else json.dumps(value)
        quoted = text.replace("'", "''")
        conditions += f" AND {key} = '{quoted}'"
    return conditions


def record_from(sweep: str, run: Any) -> TrialRecord:
    tags, params = run.data.tags, run.data.params
    if not params:
        raise ConfigError(f"run {run.info.run_id} of sweep {sweep!r} has no parameters yet: run the sweep again")
    fields = {name: _parse(name, text) for name, text in params.items()}
    return TrialRecord(
        sweep=sweep,
        signature=tags["laresa.signature"],
        run_id=run.info.run_id,
        arm=tags["laresa.arm"],
        config=TrialConfig.from_dict(fields),
        state=tags.get("laresa.state", "interrupted"),
        metrics=dict(run.data.metrics),
        error=tags.get("laresa.error"),
        provenance={name.removeprefix("laresa."): value for name, value in tags.items() if name.startswith("laresa.")},
    )


_TEXT_FIELDS = {field.name for field in dataclasses.fields(TrialConfig) if str(field.type).startswith("str")}


def _parse(name: str, text: str) -> Any:
    """A parameter as MLflow keeps it: text fields as they are (or null), all others as JSON."""
    return (None if text == "null" else text) if name in _TEXT_FIELDS else json.loads(text)


def _with_history(uri: str, sweep: str, run: Any) -> TrialRecord:
    record = record_from(sweep, run)
    if record.state not in ("finished", "failed", "pruned"):
        return record
    with tempfile.TemporaryDirectory() as folder:
        rows = json.loads(fetch_artifact(uri, run, "history.json", Path(folder)).read_text())
    return dataclasses.replace(record, history=tuple(Measurement.from_dict(row) for row in rows))


def field_value(record: TrialRecord, name: str) -> Any:
    if name in ("arm", "state"):
        return getattr(record, name)
    fields = record.config.to_dict()
    if name not in fields:
        raise ConfigError(f"by: unknown field {name!r}{nearest(name, {*fields, 'arm', 'state'})}")
    value = fields[name]
    return tuple(value) if isinstance(value, list) else value

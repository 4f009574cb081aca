"""TrialRecord: what one trial measured, made of its run in MLflow. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig
from laresa.errors import ConfigError, nearest
from laresa.measurement import Measurement
from sweeps.service.storage.outcome import reused_from
from sweeps.service.tracking.client import HISTORY, client, fetch_artifact, matching, reading_uri, run_or_none

SCHEMA_VERSION = 1
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


def record_of(run_id: str, *, tracking_uri: str | None = None) -> TrialRecord:
    """One trial with its history, by its run id. ConfigError: no such run, or it is not a trial's."""
    uri = reading_uri(tracking_uri)
    api = client(uri)
    run = run_or_none(api, run_id)
    if run is None:
        raise ConfigError(f"no run {run_id!r} at {uri}: `laresa status SWEEP --json` shows each trial's run_id")
    if run.data.tags.get("laresa.kind") != "trial":
        raise ConfigError(f"run {run_id} is not a trial's: `laresa status SWEEP --json` shows each trial's run_id")
    return with_history_of(uri, run.data.tags["laresa.sweep"], run)


def as_frame(records: Sequence[TrialRecord]) -> Any:
    """pandas: one row a trial; columns are identity, state, config fields and metrics."""
    import pandas as pd

    identity = ("signature", "run_id", "arm", "state")
    return pd.DataFrame([{**{n: getattr(r, n) for n in identity}, **r.config.to_dict(), **r.metrics} for r in records])


def conditions_of(where: Mapping[str, Any]) -> list[str]:
    """`where` for the tracker. ConfigError: unknown field."""
    fields = {field.name for field in dataclasses.fields(TrialConfig)}
    for name in where:
        if name not in fields | {"arm", "state"}:
            raise ConfigError(f"where: unknown field {name!r}{nearest(name, fields | {'arm', 'state'})}")
    return [matching(f"params.{name}" if name in fields else f"tags.laresa.{name}", where[name]) for name in where]


def record_from(sweep: str, run: Any) -> TrialRecord:
    """MLflow's run as a record without its history. ConfigError: the run has no parameters yet."""
    tags, params = run.data.tags, run.data.params
    if not params:
        raise ConfigError(f"run {run.info.run_id} of sweep {sweep!r} has no parameters yet: run the sweep again")
    fields = {name: _parse(name, text) for name, text in params.items()}
    provenance = {name.removeprefix("laresa."): text for name, text in tags.items() if name.startswith("laresa.")}
    if (origin := reused_from(tags)) is not None:
        provenance["reused_from"] = origin
    return TrialRecord(
        sweep=sweep,
        signature=tags["laresa.signature"],
        run_id=run.info.run_id,
        arm=tags["laresa.arm"],
        config=TrialConfig.from_dict(fields),
        state=tags.get("laresa.state", "interrupted"),
        metrics=dict(run.data.metrics),
        error=tags.get("laresa.error"),
        provenance=provenance,
    )


_TEXT_FIELDS = {field.name for field in dataclasses.fields(TrialConfig) if str(field.type).startswith("str")}


def _parse(name: str, text: str) -> Any:
    """A parameter as MLflow keeps it: text fields as they are (or null), all others as JSON."""
    return (None if text == "null" else text) if name in _TEXT_FIELDS else json.loads(text)


def with_history_of(uri: str, sweep: str, run: Any) -> TrialRecord:
    """As record_from, with the measurements by epoch of a trial that has ended: one file more to fetch."""
    record = record_from(sweep, run)
    if record.state not in ("finished", "failed", "pruned"):
        return record
    with tempfile.TemporaryDirectory() as folder:
        rows = json.loads(fetch_artifact(uri, run, HISTORY, Path(folder)).read_text())
    return dataclasses.replace(record, history=tuple(Measurement.from_dict(row) for row in rows))


def field_value(record: TrialRecord, name: str) -> Any:
    """A field of the configuration, the arm or the state, as something to group by. ConfigError: unknown field."""
    if name in ("arm", "state"):
        return getattr(record, name)
    fields = record.config.to_dict()
    if name not in fields:
        raise ConfigError(f"by: unknown field {name!r}{nearest(name, {*fields, 'arm', 'state'})}")
    value = fields[name]
    return tuple(value) if isinstance(value, list) else value

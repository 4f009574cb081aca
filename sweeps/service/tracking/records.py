"""TrialRecord: what one trial measured, made of its run in MLflow. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig, parse_text
from laresa.errors import ConfigError, nearest
from laresa.measurement import Measurement
from sweeps.service.key import trial_key
from sweeps.service.storage.outcome import reused_from
from sweeps.service.tracking.client import (
    HISTORY,
    UNRECORDED,
    client,
    fetch_artifact,
    matching,
    nothing_tracked,
    reading_uri,
    run_or_none,
)

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

    @property
    def key(self) -> str:
        """What its files and its run are found by, within its sweep."""
        return trial_key(self.signature, self.provenance.get("code", UNRECORDED))

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
    uri = reading_uri(tracking_uri, files=True)
    run = None if nothing_tracked(uri) else run_or_none(client(uri), run_id)
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


def conditions_of(where: Mapping[str, Any], known: Callable[[], Iterable[str]]) -> list[str]:
    """`where` for the tracker. known: the names of parameters that the sweep's runs have, asked where there is a doubt.

    ConfigError: unknown field, or a short name of several.
    """
    return [
        matching(f"tags.laresa.{name}" if name in TAGGED else f"params.{_param(name, known)}", value)
        for name, value in where.items()
    ]


TAGGED = ("arm", "state", "role")  # what is no field of the configuration
SURE = ("subset", "seed", "fold", "dataset", "backbone", "epochs", "lr", "batch_size")  # every trial has them


def _param(name: str, known: Callable[[], Iterable[str]]) -> str:
    """A parameter by its full or short name."""
    if name in SURE:
        return name
    names = sorted(set(known()))
    fits = [name] if name in names else [full for full in names if full.partition(".")[2] == name]
    if len(fits) > 1:
        raise ConfigError(f"where: field {name!r} is ambiguous: {', '.join(fits)}")
    if not fits:
        raise ConfigError(f"where: unknown field {name!r}{nearest(name, {*names, *TAGGED})}")
    return fits[0]


def record_from(sweep: str, run: Any) -> TrialRecord:
    """MLflow's run as a record without its history. ConfigError: the run has no parameters yet."""
    tags, params = run.data.tags, run.data.params
    if not params:
        raise ConfigError(f"run {run.info.run_id} of sweep {sweep!r} has no parameters yet: run the sweep again")
    fields = {name: parse_text(text) for name, text in params.items()}
    provenance = {name.removeprefix("laresa."): text for name, text in tags.items() if name.startswith("laresa.")}
    if (origin := reused_from(tags)) is not None:
        provenance["reused_from"] = origin
    return TrialRecord(
        sweep=sweep,
        signature=tags["laresa.signature"],
        run_id=run.info.run_id,
        arm=tags["laresa.arm"],
        config=TrialConfig.from_record(fields),
        state=tags.get("laresa.state", "interrupted"),
        metrics=dict(run.data.metrics),
        error=tags.get("laresa.error"),
        provenance=provenance,
    )


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
    fields = record.config.resolved
    fits = [name] if name in fields else [full for full in fields if full.partition(".")[2] == name]
    return fields[fits[0]] if len(fits) == 1 else None

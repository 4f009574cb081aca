"""Read side: what a sweep measured, as TrialRecords. Needs the MLflow client only: no Ray, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laresa.config import TrialConfig
from laresa.measurement import Measurement

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

"""What one epoch measured. Free of torch, so that reports read it on any laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a split is measured by, as in laresa.metrics.evaluate, and the loss of an epoch.
SCORES = (
    "top1",
    "nn_hit",
    "silhouette",
    "spearman_fine",
    "pearson_fine",
    "spearman_coarse",
    "pearson_coarse",
    "classes_without_samples",
    "mistake_severity",
    "hierarchical_distance",
    "sibling_accuracy",
)
LOWER_IS_BETTER = ("loss", "mistake_severity", "hierarchical_distance", "classes_without_samples")


def better(metric: str) -> str:
    """ "min" for a metric such as "val/loss" or "test/mistake_severity", else "max"; a plugin's says it itself."""
    from laresa.plugins import table

    name = metric.rpartition("/")[2]
    if name in LOWER_IS_BETTER or name.startswith("loss_"):
        return "min"
    return getattr(table("METRICS").get(name), "better", "max")


@dataclass(frozen=True)
class Measurement:
    """The metrics of one finished epoch.

    epoch: 1 for the first epoch.
    metrics: name -> value, names as in MLflow ("train/loss", "weight/ce", "val/top1").
    seconds: wall time of the epoch (training and validation, without checkpointing).
    timestamp: Unix time in milliseconds at which the epoch ended. It is kept in the checkpoint, so that
        delivering the same measurement twice is the same fact twice and not two facts.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    timestamp: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "metrics": dict(self.metrics),
            "seconds": self.seconds,
            "timestamp": self.timestamp,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Measurement:
        return cls(int(fields["epoch"]), dict(fields["metrics"]), float(fields["seconds"]), int(fields["timestamp"]))

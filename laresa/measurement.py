"""What one epoch measured. Free of torch, so that reports read it on any laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a predicted class is measured by; "_crm" stands behind the name where the class is CRM's choice.
DECISIONS = (
    "top1",
    "top5",
    "mistake_severity",
    "hierarchical_distance",
    "hierarchical_distance_at5",
    "hierarchical_distance_at20",
    "sibling_accuracy",
)
CRM = "_crm"
# What a split is measured by, as in laresa.metrics.evaluate; beside it the loss of an epoch, and of deep trees the
# accuracy of each level (top1_level1, ...), which are as many as the tree has.
SCORES = (
    *("top1", "top5"),
    *("nn_hit", "nn_hit_predicted", "silhouette", "effective_rank", "rank_share"),
    *("spearman_fine", "pearson_fine", "spearman_coarse", "pearson_coarse"),
    "classes_without_samples",
    *DECISIONS[2:],
    *(f"{name}{CRM}" for name in DECISIONS),
)
# What the test images are corrupted by where a trial asks for it, each at every strength (laresa.data.corruptions).
CORRUPTIONS = ("noise", "blur", "contrast", "jpeg", "shift")
STRENGTHS = (1, 2, 3, 4, 5)
TOP1_CORRUPTED = "test/top1_corrupted"  # the mean over all of them
RANK_COLLAPSE = 0.05  # a rank_share under it counts as collapsed
LOWER_IS_BETTER = ("loss", "classes_without_samples")
DISTANCES = ("mistake_severity", "hierarchical_distance")  # of any form: @5, by CRM


def better(metric: str) -> str:
    """ "min" for a metric such as "val/loss" or "test/mistake_severity", else "max"; a plugin's says it itself."""
    from laresa.plugins import table

    name = metric.rpartition("/")[2]
    if name in table("METRICS"):
        return getattr(table("METRICS")[name], "better", "max")
    return "min" if name in LOWER_IS_BETTER or name.startswith(("loss_", *DISTANCES)) else "max"


def corrupted(kind: str, strength: int) -> str:
    """The metric's name: top-1 on the test images so corrupted."""
    return f"corrupted/{kind}_{strength}"


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

"""One run an arm in MLflow: means over its replicates, beside its trials and counted as none of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.service.tracking.client import matching
from sweeps.service.tracking.sweep import Sweep

KIND = "arm"


@dataclass(frozen=True)
class ArmSummary:
    """label: of the arm, with data set and backbone where a sweep has several. metrics: mean/test/top1, sd/..., n."""

    label: str
    metrics: Mapping[str, float]


def write_arms(sweep: Sweep, arms: Sequence[ArmSummary]) -> None:
    """Make or update each arm's run. Nothing where the sweep has no parent run."""
    from mlflow.entities import Metric

    if sweep.parent is None:
        return
    known = {run.data.tags["laresa.arm"]: run.info.run_id for run in arm_runs(sweep)}
    for arm in arms:
        run_id = known.get(arm.label)
        if run_id is None:
            tags = {
                "mlflow.parentRunId": sweep.parent.info.run_id,
                "mlflow.runName": f"mean of {arm.label}",
                "laresa.kind": KIND,
                "laresa.sweep": sweep.name,
                "laresa.arm": arm.label,
            }
            run_id = sweep.api.create_run(sweep.experiment_id, tags=tags).info.run_id
        now = int(time.time() * 1000)
        sweep.api.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in arm.metrics.items()])
        sweep.api.set_terminated(run_id, "FINISHED")


def arm_runs(sweep: Sweep) -> list[Any]:
    return list(sweep.api.search_runs([sweep.experiment_id], matching("tags.laresa.kind", KIND), max_results=1000))

"""Write side of MLflow: one run a trial for ever, found by (sweep, signature, code); metrics in batches, from a thread.

Delivery is idempotent: measurements carry their own timestamps, so that sending one again changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laresa.config import write_text
from laresa.measurement import Measurement
from sweeps.service.storage.files import TrialFolder
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.client import HISTORY, SUPERSEDED, VIEW, make_experiment, matching, parent_run
from sweeps.service.tracking.local_server import TrackingError

STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}
ARTIFACTS = {  # file of a concluded trial -> its artifact folder
    "config.json": None,
    "traceback.txt": None,
    "model.safetensors": "checkpoint",
    "latents.npz": None,
    "weights.svg": "figures",
}
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
log = logging.getLogger("laresa.tracking")


@dataclass(frozen=True)
class SweepRun:
    """Where a sweep's trials are written: plain data, sent to every worker."""

    uri: str
    sweep: str
    experiment_id: str
    parent_run_id: str


@dataclass(frozen=True)
class TrialRun:
    """What identifies and describes one trial's run."""

    sweep: SweepRun
    trial: PlannedTrial
    tags: Mapping[str, str]

    @property
    def signature(self) -> str:
        return self.trial.signature


# A view of MLflow's runs table, kept on the experiment: every run a row, the best on validation first.
VIEW_STATE = {
    "orderByKey": "metrics.`best/val/top1`",
    "orderByAsc": False,
    "selectedColumns": [
        "tags.`laresa.state`",
        *(f"metrics.`{name}`" for name in ("best/val/top1", "test/top1", "test/nn_hit", "best_epoch")),
        *(f"params.`{name}`" for name in ("subset", "weighting", "seed", "fold", "lr")),
    ],
}


def open_sweep(uri: str, sweep: str, description: Mapping[str, str]) -> SweepRun:
    """The sweep's experiment and parent run, made when they don't exist."""
    api, experiment_id = make_experiment(uri, sweep)
    parent = parent_run(api, experiment_id)
    if parent is not None:
        api.update_run(parent.info.run_id, status="RUNNING")
    else:
        tags = {"mlflow.runName": sweep, "laresa.kind": "sweep", "laresa.sweep": sweep}
        parent = api.create_run(experiment_id, tags=tags)
    for name, value in description.items():
        api.set_tag(parent.info.run_id, name, value)
    api.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(VIEW_STATE))
    return SweepRun(uri, sweep, experiment_id, parent.info.run_id)


def keep_plugins(api: Any, sweep: SweepRun, files: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """The plugins' sources as artifacts `plugins/<file>` of the parent run, and its tag of plugin -> sha256."""
    for name, text in files.items():
        api.log_text(sweep.parent_run_id, text, f"plugins/{name}")
    if digests:
        api.set_tag(sweep.parent_run_id, "laresa.plugins", json.dumps(digests))


def open_trial(api: Any, trial: TrialRun) -> str:
    """The run id of this trial: found, or made once; with its parameters, and RUNNING."""
    runs = _runs_of_trial(api, trial.sweep.experiment_id, trial.trial)
    if not runs:
        api.create_run(trial.sweep.experiment_id, tags=_first_tags(trial))
        runs = _runs_of_trial(api, trial.sweep.experiment_id, trial.trial)
    run, *others = runs
    for other in others:  # a request sent twice, or two attempts at once, may have made one each
        api.delete_run(other.info.run_id)
    run_id: str = run.info.run_id
    if not run.data.params:  # new, or its worker died before it had written them
        log_params(api, run_id, trial.trial.config.to_dict())
    if SUPERSEDED in run.data.tags:  # the code that learned it is back
        api.delete_tag(run_id, SUPERSEDED)
    if run.info.status != "RUNNING" or run.data.tags["laresa.state"] != "running":
        api.update_run(run_id, status="RUNNING")
        api.set_tag(run_id, "laresa.state", "running")
    return run_id


def _first_tags(trial: TrialRun) -> dict[str, str]:
    config, arm = trial.trial.config, trial.trial.arm
    return {
        "mlflow.parentRunId": trial.sweep.parent_run_id,
        "mlflow.runName": f"{arm}, seed {config.seed}, fold {config.fold}",
        "laresa.kind": "trial",
        "laresa.role": trial.trial.role,
        "laresa.sweep": trial.sweep.sweep,
        "laresa.signature": trial.signature,
        "laresa.code": trial.trial.code,
        **({"laresa.code_accepted": accepted} if (accepted := trial.trial.accepted_by) else {}),
        "laresa.arm": arm,
        "laresa.subset": config.subset,
        "laresa.state": "running",
        **({"laresa.chosen": trial.trial.chosen} if trial.trial.chosen else {}),
        **trial.tags,
    }


def find_run(api: Any, experiment_id: str, trial: PlannedTrial) -> str | None:
    """The id of a trial's run; None if it has none yet."""
    runs = _runs_of_trial(api, experiment_id, trial)
    return runs[0].info.run_id if runs else None


def _runs_of_trial(api: Any, experiment_id: str, trial: PlannedTrial) -> list[Any]:
    """One, or none; several only for a moment. The order is the same for all who look."""
    same = f"{matching('tags.laresa.signature', trial.signature)} AND {matching('tags.laresa.code', trial.code)}"
    return list(api.search_runs([experiment_id], same, max_results=10, order_by=["attributes.start_time ASC"]))


def log_params(api: Any, run_id: str, config: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(name, write_text(value)) for name, value in config.items()]
    for start in range(0, len(params), PARAMS_A_BATCH):
        api.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH])


def log_measurements(api: Any, run_id: str, measurements: Sequence[Measurement]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(name, float(value), measurement.timestamp, measurement.epoch)
        for measurement in measurements
        for name, value in {**measurement.metrics, "seconds/epoch": measurement.seconds}.items()
    ]
    for start in range(0, len(metrics), METRICS_A_BATCH):
        api.log_batch(run_id, metrics=metrics[start : start + METRICS_A_BATCH])


def deliver(api: Any, trial: TrialRun, folder: TrialFolder, *, after_epoch: int = 0) -> str:
    """Bring a concluded trial's run to the state its storage says, whatever was sent before. Returns the run id.

    after_epoch: the caller knows that measurements up to it have arrived.
    """
    outcome = folder.outcome()
    if outcome is None:
        raise TrackingError(f"{folder.files.place(folder.root)} has no outcome to deliver")
    from mlflow.entities import Metric, RunTag

    run_id = open_trial(api, trial)
    history = [Measurement.from_dict(fields) for fields in outcome["history"]]
    log_measurements(api, run_id, [m for m in history if m.epoch > after_epoch])
    api.log_text(run_id, json.dumps(outcome["history"], indent=1), HISTORY)  # before the state that promises it
    last = history[-1] if history else Measurement(0, {}, 0.0)
    final = [Metric(name, float(v), last.timestamp, last.epoch) for name, v in outcome["metrics"].items()]
    tags = {"laresa.state": outcome["state"], "laresa.attempts": str(outcome["attempts"]), **outcome["provenance"]}
    if outcome["error"]:
        tags["laresa.error"] = outcome["error"][:4000]
    tags["laresa.collapsed"] = str(outcome["metrics"].get("collapse_step", -1) >= 0).lower()
    api.log_batch(run_id, metrics=final, tags=[RunTag(name, value) for name, value in tags.items()])
    sent = artifacts(folder)
    for path, target in sent:
        api.log_artifact(run_id, str(path), target)
    api.set_terminated(run_id, STATUS[outcome["state"]])
    folder.note_delivered(run_id, [path for path, _ in sent if path.suffix in (".safetensors", ".npz", ".svg")])
    return run_id


def promote(api: Any, sweep: SweepRun, trial: PlannedTrial) -> None:
    """A search's choice that stands in the comparison too is evidence; it is not trained again for that."""
    run_id = find_run(api, sweep.experiment_id, trial)
    if run_id and api.get_run(run_id).data.tags.get("laresa.role") == "search":
        api.set_tag(run_id, "laresa.role", "evidence")
        api.set_tag(run_id, "laresa.searched", "true")
        api.set_tag(run_id, "laresa.chosen", trial.chosen)


def interrupt(api: Any, sweep: SweepRun, trial: PlannedTrial) -> None:
    """Close the run of a trial that nobody trains any more; it goes on when the sweep is run again."""
    if run_id := find_run(api, sweep.experiment_id, trial):
        _close(api, run_id)


def mark_code(api: Any, runs: Mapping[str, Any], accepted: Mapping[str, str], superseded: Collection[str]) -> None:
    """Say on the runs, by key, what was decided about other code. accepted: key -> the code that went on with it."""
    for key, run in runs.items():
        if key in superseded:
            if run.info.status == "RUNNING":
                _close(api, run.info.run_id)
            api.set_tag(run.info.run_id, SUPERSEDED, "true")
        elif key in accepted and run.data.tags.get("laresa.code_accepted") != accepted[key]:
            api.set_tag(run.info.run_id, "laresa.code_accepted", accepted[key])


def _close(api: Any, run_id: str) -> None:
    api.set_tag(run_id, "laresa.state", "interrupted")
    api.set_terminated(run_id, STATUS["interrupted"])


def artifacts(folder: TrialFolder) -> list[tuple[Path, str | None]]:
    """(file, artifact folder) of what a concluded trial left on storage."""
    return [(path, target) for name, target in ARTIFACTS.items() if (path := folder.file(name)).exists()]

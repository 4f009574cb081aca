"""Write side of MLflow, by its own API: a sweep, and one run a trial for ever, found by (sweep, signature, code)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from laresa.config import write_text
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.client import SUPERSEDED, VIEW, make_experiment, matching, parent_run

STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}
PARAMS_A_BATCH = 100


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


@dataclass(frozen=True)
class Opened:
    """A trial's run. artifact_uri: where its files go."""

    run_id: str
    artifact_uri: str


def open_trial(api: Any, trial: TrialRun) -> Opened:
    """The run of this trial: found, or made once; with its parameters, and RUNNING."""
    runs = _runs_of_trial(api, trial.sweep.experiment_id, trial.trial)
    if not runs:
        api.create_run(trial.sweep.experiment_id, tags=first_tags(trial))
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
    return Opened(run_id, run.info.artifact_uri)


def first_tags(trial: TrialRun) -> dict[str, str]:
    """Of a run when it is made."""
    config, arm = trial.trial.config, trial.trial.arm
    return {
        "mlflow.parentRunId": trial.sweep.parent_run_id,
        "mlflow.runName": f"{arm}, seed {config.seed}, fold {config.fold}",
        "laresa.kind": "trial",
        "laresa.role": trial.trial.role,
        "laresa.sweep": trial.sweep.sweep,
        **found_by(trial.trial),
        **({"laresa.code_accepted": accepted} if (accepted := trial.trial.accepted_by) else {}),
        "laresa.arm": arm,
        "laresa.subset": config.subset,
        "laresa.state": "running",
        **({"laresa.chosen": trial.trial.chosen} if trial.trial.chosen else {}),
        **trial.tags,
    }


def found_by(trial: PlannedTrial) -> dict[str, str]:
    """The tags that tell a trial's run from all others of its sweep."""
    return {"laresa.signature": trial.signature, "laresa.code": trial.code}


def find_run(api: Any, experiment_id: str, trial: PlannedTrial) -> str | None:
    """The id of a trial's run; None if it has none yet."""
    runs = _runs_of_trial(api, experiment_id, trial)
    return runs[0].info.run_id if runs else None


def _runs_of_trial(api: Any, experiment_id: str, trial: PlannedTrial) -> list[Any]:
    """One, or none; several only for a moment. The order is the same for all who look."""
    same = " AND ".join(matching(f"tags.{name}", value) for name, value in found_by(trial).items())
    return list(api.search_runs([experiment_id], same, max_results=10, order_by=["attributes.start_time ASC"]))


def log_params(api: Any, run_id: str, config: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(name, write_text(value)) for name, value in config.items()]
    for start in range(0, len(params), PARAMS_A_BATCH):
        api.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH])


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
        close(api, run_id)


def mark_code(api: Any, runs: Mapping[str, Any], accepted: Mapping[str, str], superseded: Collection[str]) -> None:
    """Say on the runs, by key, what was decided about other code. accepted: key -> the code that went on with it."""
    for key, run in runs.items():
        if key in superseded:
            if run.info.status == "RUNNING":
                close(api, run.info.run_id)
            api.set_tag(run.info.run_id, SUPERSEDED, "true")
        elif key in accepted and run.data.tags.get("laresa.code_accepted") != accepted[key]:
            api.set_tag(run.info.run_id, "laresa.code_accepted", accepted[key])


def close(api: Any, run_id: str) -> None:
    """Of a trial that nobody trains any more."""
    api.set_tag(run_id, "laresa.state", "interrupted")
    api.set_terminated(run_id, STATUS["interrupted"])

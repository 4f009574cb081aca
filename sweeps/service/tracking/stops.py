"""The tag by which a user stops a trial, or a sweep, from MLflow's UI."""

from __future__ import annotations

from typing import Any

from sweeps.service.key import trial_key
from sweeps.service.tracking.client import PAGE
from sweeps.service.tracking.write import SweepRun

STOP = "laresa.stop"
ASKED = f"tags.`{STOP}` ILIKE 'true'"


def asked_to_stop(api: Any, sweep: SweepRun) -> tuple[bool, list[str]]:
    """(whether the sweep is, keys of the trials that are)."""
    tags = [run.data.tags for run in api.search_runs([sweep.experiment_id], ASKED, max_results=PAGE)]
    trials = [found for found in tags if found.get("laresa.kind") == "trial"]
    keys = sorted(trial_key(found["laresa.signature"], found["laresa.code"]) for found in trials)
    return len(trials) < len(tags), keys


def forget_stops(api: Any, sweep: SweepRun) -> None:
    """Who types the command again wants all to go on."""
    for run in api.search_runs([sweep.experiment_id], f"tags.`{STOP}` != ''", max_results=PAGE):
        api.delete_tag(run.info.run_id, STOP)

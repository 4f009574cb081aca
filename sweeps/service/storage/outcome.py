"""What outcome.json holds: how a trial ended. One home of its shape, for workers, the driver and the result cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeps.service.storage.files import MEASURED, TrialFolder
from sweeps.service.storage.state import write_json

if TYPE_CHECKING:
    from sweeps.service.study import PlannedTrial

REUSED_FROM = "laresa.reused_from"  # tag: the run, in another sweep, whose result this is


def reused_from(tags: Mapping[str, str]) -> str | None:
    """The run that a result was copied from; None for one that was trained in its own sweep."""
    return tags.get(REUSED_FROM) or tags.get("laresa.adopted_from")  # as it was called in sweeps before 0.2


def describe_outcome(
    trial: PlannedTrial,
    state: str,
    metrics: Mapping[str, float],
    history: Sequence[Mapping[str, Any]],
    error: str | None,
    provenance: Mapping[str, str],
) -> dict[str, Any]:
    """What outcome.json holds. history: measurements by epoch, on storage here alone; the tracker has them from it."""
    return {
        "schema_version": 1,
        "signature": trial.signature,
        "code": trial.code,
        "arm": trial.arm,
        "role": trial.role,
        "chosen": trial.chosen,
        "state": state,
        "error": error,
        "metrics": dict(metrics),
        "history": list(history),
        "provenance": dict(provenance),
    }


def pruned_metrics(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a trial that was stopped early is known by: its best epoch on validation; the test split stays unseen.

    history: measurements as plain data, one at least.
    """
    best = max(history, key=lambda row: row["metrics"]["val/top1"])  # the first of equals, as training has it
    metrics = {f"best/{name}": value for name, value in best["metrics"].items() if name.startswith("val/")}
    return {
        **metrics,
        "best_epoch": float(best["epoch"]),
        "seconds/train": sum(row["seconds"] for row in history),
    }


def conclude_pruned(folder: TrialFolder, trial: PlannedTrial) -> dict[str, Any] | None:
    """The outcome of a trial that Tune's scheduler stopped, from what it measured so far; None if that is damaged."""
    if (kept := folder.read(MEASURED)) is None:
        return None
    write_json(folder.root / "config.json", trial.config.to_dict())
    metrics = pruned_metrics(kept["history"])
    outcome = describe_outcome(trial, "pruned", metrics, kept["history"], None, kept["provenance"])
    folder.newest_attempt().conclude(outcome)
    return outcome

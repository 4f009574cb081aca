"""What trials report reaches their runs: many at once by our server's bulk endpoint, else by MLflow's own API.

All of it may be sent again: measurements carry their own timestamps, so that what has arrived changes nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laresa.config import write_text
from laresa.errors import DamagedError
from laresa.files import failpoint
from laresa.measurement import Measurement
from sweeps.service.storage.files import TrialFolder
from sweeps.service.tracking.bulk import Bulk
from sweeps.service.tracking.client import HISTORY, LATENTS, SUPERSEDED, put_artifacts, refused
from sweeps.service.tracking.thin import at_once, thinned
from sweeps.service.tracking.write import STATUS, Opened, TrialRun, first_tags, found_by, open_trial

ARTIFACTS = {  # file of a concluded trial -> its artifact folder
    "config.json": None,
    "traceback.txt": None,
    "model.safetensors": "checkpoint",
    "last.safetensors": "checkpoint",
    "latents.npz": None,
    "weights.svg": "figures",
}
METRICS_A_BATCH = 1000  # MLflow's own limit
Point = tuple[str, float, int, int]  # name, value, timestamp, step


@dataclass(frozen=True)
class Change:
    """What is written to one run. state: it ends so."""

    run_id: str
    metrics: Sequence[Point] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    state: str | None = None


@dataclass(frozen=True)
class Delivery:
    """A concluded trial. after_epoch: what was measured up to it, as far as `at_once` lets it, is known to be there."""

    trial: TrialRun
    folder: TrialFolder
    after_epoch: int = 0


class Tracker:
    """Writes runs. A list of answers has one for each that was asked, in order: an exception is why it was refused.

    bulk: None leaves it to MLflow's own API. Whatever else goes wrong is raised, and may be tried again.
    """

    def __init__(self, api: Any, bulk: Bulk | None) -> None:
        self.api, self._bulk = api, bulk

    def open(self, trials: Sequence[TrialRun]) -> list[Opened | Exception]:
        """As write.open_trial."""
        answers = self._post([_opening(trial) for trial in trials])
        if answers is None:
            return [_or_refusal(open_trial, self.api, trial) for trial in trials]
        return [_refusal(answer) or _or_refusal(self._opened, answer) for answer in answers]

    def write(self, changes: Sequence[Change]) -> list[Exception | None]:
        answers = self._post([_entry(change) for change in changes])
        if answers is None:
            return [_or_refusal(_write, self.api, change) for change in changes]
        return [_refusal(answer) for answer in answers]

    def _post(self, entries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]] | None:
        failpoint("tell the tracker")
        return None if self._bulk is None else self._bulk.post(entries)

    def _opened(self, answer: Mapping[str, Any]) -> Opened:
        for other in answer["others"]:  # an MLflow client that looked at the same time made one too
            self.api.delete_run(other)
        return Opened(answer["run_id"], answer["artifact_uri"])


def _opening(trial: TrialRun) -> dict[str, Any]:
    params = {name: write_text(value) for name, value in trial.trial.config.to_dict().items()}
    return {
        "experiment_id": trial.sweep.experiment_id,
        "find": found_by(trial.trial),
        "new": {"tags": first_tags(trial), "params": params, "start_time": int(time.time() * 1000)},
        "status": STATUS["running"],
        "tags": {"laresa.state": "running"},
        "drop_tags": [SUPERSEDED],  # the code that learned it is back
    }


def _entry(change: Change) -> dict[str, Any]:
    ended = {"status": STATUS[change.state], "end_time": int(time.time() * 1000)} if change.state else {}
    return {"run_id": change.run_id, "metrics": list(change.metrics), "tags": dict(change.tags), **ended}


def _refusal(answer: Mapping[str, Any]) -> Exception | None:
    from mlflow.exceptions import RestException

    return RestException(dict(answer)) if "error_code" in answer else None


def _or_refusal(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except Exception as error:
        if refused(error):
            return error
        raise


def _write(api: Any, change: Change) -> None:
    from mlflow.entities import Metric, RunTag

    for start in range(0, len(change.metrics), METRICS_A_BATCH):
        part = change.metrics[start : start + METRICS_A_BATCH]
        api.log_batch(change.run_id, metrics=[Metric(*point) for point in part])
    if change.tags:
        api.log_batch(change.run_id, tags=[RunTag(name, value) for name, value in change.tags.items()])
    if change.state:
        api.set_terminated(change.run_id, STATUS[change.state])


def points(measurements: Iterable[Measurement]) -> list[Point]:
    """What a run keeps of epochs."""
    return [
        (name, float(value), measurement.timestamp, measurement.epoch)
        for measurement in measurements
        for name, value in {**measurement.metrics, "seconds/epoch": measurement.seconds}.items()
    ]


# ---------------------------------------------------------------------- concluded trials


def deliver(api: Any, trial: TrialRun, folder: TrialFolder) -> str:
    """Bring a concluded trial's run to the state its storage says, whatever was sent before. Returns the run id."""
    (answer,) = deliver_all(Tracker(api, None), [Delivery(trial, folder)])
    if isinstance(answer, Exception):
        raise answer
    return answer


def deliver_all(tracker: Tracker, deliveries: Sequence[Delivery]) -> list[str | Exception]:
    """As `deliver`, of many at once: the run ids. An exception is of one delivery alone, refused or not."""
    answers: list[str | Exception] = []
    ready: list[tuple[int, Change, list[Path]]] = []
    for index, opened in enumerate(tracker.open([delivery.trial for delivery in deliveries])):
        try:
            if isinstance(opened, Exception):
                raise opened
            change, bulky = _conclusion(deliveries[index], opened)
            ready.append((index, change, bulky))
            answers.append(opened.run_id)
        except Exception as error:
            answers.append(error)
    for (index, change, bulky), refusal in zip(ready, tracker.write([change for _, change, _ in ready]), strict=True):
        if refusal is not None:
            answers[index] = refusal
        else:
            deliveries[index].folder.note_delivered(change.run_id, bulky)
    return answers


def _conclusion(delivery: Delivery, opened: Opened) -> tuple[Change, list[Path]]:
    """(what is left to write, files now in the tracker): they are sent before the state that promises them."""
    folder = delivery.folder
    folder.check_files()
    outcome = folder.outcome()
    if outcome is None:
        raise DamagedError(f"{folder.files.place(folder.root)} has no outcome to deliver: it is trained again")
    sent = artifacts(folder)
    with tempfile.TemporaryDirectory() as name:
        history_file = Path(name) / HISTORY
        history_file.write_text(json.dumps(outcome["history"], indent=1))
        put_artifacts(delivery.trial.sweep.uri, opened.artifact_uri, [(history_file, None), *sent])
    history = [Measurement.from_dict(fields) for fields in outcome["history"]]
    epochs = delivery.trial.trial.config.epochs
    left = [
        m
        for m in thinned(history, outcome["metrics"].get("best_epoch"))
        if m.epoch > delivery.after_epoch or not at_once(m, epochs)
    ]
    last = history[-1] if history else Measurement(0, {}, 0.0)
    final = [(name, float(value), last.timestamp, last.epoch) for name, value in outcome["metrics"].items()]
    tags = {"laresa.state": outcome["state"], "laresa.attempts": str(outcome["attempts"]), **outcome["provenance"]}
    if outcome["error"]:
        tags["laresa.error"] = outcome["error"][:4000]
    tags["laresa.collapsed"] = str(outcome["metrics"].get("collapse_step", -1) >= 0).lower()
    bulky = [path for path, _ in sent if path.suffix in (".safetensors", ".npz", ".svg")]
    return Change(opened.run_id, [*points(left), *final], tags, outcome["state"]), bulky


def artifacts(folder: TrialFolder) -> list[tuple[Path, str | None]]:
    """(file, artifact folder) of what a concluded trial left on storage."""
    left = [(path, target) for name, target in ARTIFACTS.items() if (path := folder.file(name)).exists()]
    return left + [(folder.file(path.name), LATENTS) for path in folder.latents()]

"""The result cache across sweeps: what another sweep of the tracking store finished is reused, never trained again.

A run counts if its signature is the trial's, it finished, its data set was the very same pictures (fingerprint), and
the code that learned it is the code that is here; by other code it counts with --accept-code alone, and is marked.
It is copied into this sweep's storage as an outcome; delivering that makes the run in this sweep.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig
from laresa.errors import DataError, MissingDataError
from sweeps.service.planning.code import changed, files_behind, named
from sweeps.service.planning.plan import PlanRow
from sweeps.service.storage.files import SweepFolder, TrialFolder
from sweeps.service.storage.outcome import REUSED_FROM, describe_outcome, reused_from
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.client import (
    HISTORY,
    UNRECORDED,
    client,
    experiments,
    fetch_artifacts,
    matching,
    nothing_tracked,
    reading_uri,
    run_or_none,
    trial_runs,
)
from sweeps.service.tracking.deliver import ARTIFACTS

log = logging.getLogger("laresa.reuse")
SINGLE_LOOKUPS = 8  # signatures up to this number are asked for one by one: tag filters know "=", but no list
SHARED = ("dataset", "epochs", "backbone", "subset", "seed")  # more signatures: all runs that agree in what these share
PROVENANCE = tuple(
    f"laresa.{name}"
    for name in (
        *("version", "git_commit", "host", "device", "threads", "fold", "gpu_memory_gib"),
        *("tree_fingerprint", "test_fingerprint"),
    )
)
DATA_FIELDS = ("dataset", "image_size", "skip_bad_images")  # the fields that a fingerprint depends on


def _data(config: TrialConfig) -> tuple[Any, ...]:
    own = config.values(config.dataset)  # such as cub200.resize
    return (*(getattr(config, name) for name in DATA_FIELDS), *sorted(own.items()))


class Fingerprints:
    """Of data sets as they are now; each is opened once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}

    def __call__(self, config: TrialConfig) -> str:
        key = _data(config)
        if key not in self._known:
            from laresa.data import load

            try:
                self._known[key] = load(config).fingerprint
            except MissingDataError:  # nothing here is the same
                self._known[key] = ""
        return self._known[key]


@dataclass(frozen=True)
class Elsewhere:
    """signature -> the oldest run, in another sweep, that finished this configuration on the same data.

    same: by the code that is here. other: by other code, or continued by other code, of what `same` lacks.
    """

    same: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)

    def usable(self, accept_code: bool) -> dict[str, Any]:
        return {**self.other, **self.same} if accept_code else self.same


def finished_elsewhere(api: Any, sweep: str, trials: Iterable[PlannedTrial]) -> Elsewhere:
    """What the tracker's other sweeps finished of these trials."""
    wanted = {trial.signature: trial for trial in trials}
    others = [experiment.experiment_id for experiment in experiments(api) if experiment.name != sweep]
    if not wanted or not others:
        return Elsewhere()
    fingerprint, found = Fingerprints(), Elsewhere()
    for conditions in _conditions({signature: trial.config for signature, trial in wanted.items()}):
        for run in _finished(api, others, conditions):
            tags = run.data.tags
            trial = wanted.get(tags["laresa.signature"])
            if trial is None or tags.get("laresa.data_fingerprint") != fingerprint(trial.config):
                continue
            same = tags.get("laresa.code") == trial.code and "laresa.code_accepted" not in tags
            (found.same if same else found.other).setdefault(trial.signature, run)
    return Elsewhere(found.same, {s: run for s, run in found.other.items() if s not in found.same})


def with_cached(
    rows: Sequence[PlanRow], sweep: str, uri: str | None, *, accept_code: bool = False
) -> tuple[tuple[PlanRow, ...], list[str]]:
    """The plan's rows, those that would be reused in state "cached", and what to say of those by other code."""
    uri, pending = reading_uri(uri), [row.trial for row in rows if row.state in ("new", "resume")]
    if not pending or nothing_tracked(uri):
        return tuple(rows), []
    api = client(uri)
    found = finished_elsewhere(api, sweep, pending)
    usable = found.usable(accept_code)
    cached = {trial for trial in pending if trial.signature in usable}
    rows = [PlanRow(row.trial, "cached") if row.trial in cached else row for row in rows]
    left = {} if accept_code else found.other
    return tuple(rows), [_more(len(left), _changed_files(api, left, pending))] if left else []


def _more(count: int, files: Sequence[str]) -> str:
    return f"{count} more finished elsewhere under other code ({named(files)}): --accept-code reuses them"


def _changed_files(api: Any, runs: Mapping[str, Any], trials: Iterable[PlannedTrial]) -> list[str]:
    """The files that differ between the code behind these runs and the code that is here."""
    trial_of, seen = {trial.signature: trial for trial in trials}, dict[tuple[str, str], PlannedTrial]()
    for signature, run in runs.items():
        pair = (run.data.tags.get("mlflow.parentRunId", ""), run.data.tags.get("laresa.code", ""))
        seen.setdefault(pair, trial_of[signature])
    files = set[str]()
    for (parent, code), trial in seen.items():
        if found := run_or_none(api, parent):
            files |= set(changed(trial, files_behind(found.data.tags, code)))
    return sorted(files)


def reuse(
    api: Any, sweep: str, folder: SweepFolder, trials: Iterable[PlannedTrial], *, accept_code: bool = False
) -> list[PlannedTrial]:
    """Take over what other sweeps finished of these trials, each under the code that learned it."""
    pending = {t.signature: t for t in trials if folder.trial(t.key).outcome() is None}
    runs = finished_elsewhere(api, sweep, pending.values()).usable(accept_code)
    found = [(run, replace(pending[s], code=run.data.tags.get("laresa.code", UNRECORDED))) for s, run in runs.items()]
    return [trial for run, trial in found if _copy(api, run, trial, folder)]


def check_same_data(api: Any, experiment_id: str, configs: Iterable[TrialConfig]) -> None:
    """DataError where this sweep holds a finished trial on pictures that the data set does not have any more."""
    fingerprint = Fingerprints()
    for config in {_data(config): config for config in configs}.values():
        now = fingerprint(config)
        same = _params(dict(zip(DATA_FIELDS, _data(config), strict=True)))
        other = matching("tags.laresa.data_fingerprint", now, "!=")
        for run in _finished(api, [experiment_id], [*same, other]):
            if "image_size" in run.data.params and config.image_size is None:
                continue
            raise DataError(
                f"data set {config.dataset!r} has changed: its fingerprint is {now}, trials of this sweep finished on "
                f"{run.data.tags['laresa.data_fingerprint']} (run {run.info.run_id}): bring the pictures back, or give "
                "the changed ones a sweep of their own with --sweep"
            )


# ---------------------------------------------------------------------- copying


def _copy(api: Any, run: Any, trial: PlannedTrial, folder: SweepFolder) -> bool:
    """Copy one run's artifacts and write its outcome, last; False (and it is trained) where artifacts are missing."""
    stored = folder.trial(trial.key)
    attempt = stored.new_attempt()
    try:
        history = _copy_artifacts(api, run.info.run_id, stored)
    except OSError as error:
        log.warning("run %s can't be reused (%s): its trial is trained again", run.info.run_id, error)
        return False
    provenance = {name: value for name, value in run.data.tags.items() if name.startswith(PROVENANCE)}
    provenance["laresa.data_fingerprint"] = run.data.tags["laresa.data_fingerprint"]
    provenance[REUSED_FROM] = reused_from(run.data.tags) or run.info.run_id
    measured = {name for row in history for name in row["metrics"]} | {"seconds/epoch"}
    metrics = {name: value for name, value in run.data.metrics.items() if name not in measured}
    attempt.conclude(describe_outcome(trial, "finished", metrics, history, None, provenance))
    return True


def _copy_artifacts(api: Any, run_id: str, stored: TrialFolder) -> list[dict[str, Any]]:
    """The files that `write.artifacts` sends, back in their place, and the measurements by epoch."""
    with tempfile.TemporaryDirectory() as scratch:
        whole = fetch_artifacts(api, run_id, Path(scratch))
        for name in ("config.json", HISTORY):
            if not (whole / name).exists():
                raise FileNotFoundError(f"{name} is missing")
        for name, place in ARTIFACTS.items():
            source = whole / (place or "") / name
            if source.exists():
                shutil.copyfile(source, stored.root / name)
        rows: list[dict[str, Any]] = json.loads((whole / HISTORY).read_text())
    return rows


# ---------------------------------------------------------------------- asking


def _conditions(wanted: Mapping[str, TrialConfig]) -> list[list[str]]:
    """What to ask the tracker for: each signature, or all runs that agree with what the configurations share."""
    if len(wanted) <= SINGLE_LOOKUPS:
        return [[matching("tags.laresa.signature", signature)] for signature in wanted]
    values = {name: {getattr(config, name) for config in wanted.values()} for name in SHARED}
    return [_params({name: next(iter(value)) for name, value in values.items() if len(value) == 1})]


def _params(fields: Mapping[str, Any]) -> list[str]:
    return [matching(f"params.{name}", value) for name, value in fields.items() if value is not None]


def _finished(api: Any, experiment_ids: Sequence[str], conditions: Sequence[str]) -> Iterator[Any]:
    """Finished trials, oldest first: an original before what was made of it."""
    done = "attributes.status = 'FINISHED'", matching("tags.laresa.state", "finished")
    return trial_runs(api, experiment_ids, *done, *conditions)

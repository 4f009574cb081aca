"""The result cache across sweeps: what another sweep of the tracking store finished is reused, never trained again.

A run counts if its signature is the trial's, it finished, and its data set was the very same pictures (fingerprint).
It is copied into this sweep's storage as an outcome; delivering that makes the run in this sweep.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig
from laresa.errors import DataError
from sweeps.service.storage.files import SweepFolder, TrialFolder
from sweeps.service.storage.outcome import REUSED_FROM, describe_outcome, reused_from
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.client import (
    HISTORY,
    client,
    experiments,
    fetch_artifacts,
    matching,
    nothing_tracked,
    reading_uri,
    trial_runs,
)
from sweeps.service.tracking.write import ARTIFACTS

log = logging.getLogger("laresa.reuse")
SINGLE_LOOKUPS = 8  # signatures up to this number are asked for one by one: tag filters know "=", but no list
SHARED = ("dataset", "epochs", "backbone", "subset", "seed")  # more signatures: all runs that agree in what these share
PROVENANCE = tuple(
    f"laresa.{name}"
    for name in ("version", "git_commit", "code", "host", "device", "threads", "fold", "gpu_memory_gib")
)
DATA_FIELDS = ("dataset", "image_size", "skip_bad_images")  # the fields that a fingerprint depends on


def _data(config: TrialConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in DATA_FIELDS)


class Fingerprints:
    """Of data sets as they are now; each is opened once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}

    def __call__(self, config: TrialConfig) -> str:
        key = _data(config)
        if key not in self._known:
            from laresa.data import load

            self._known[key] = load(config).fingerprint
        return self._known[key]


def finished_elsewhere(api: Any, sweep: str, configs: Sequence[TrialConfig]) -> dict[str, Any]:
    """signature -> the oldest run, in another sweep, that finished this configuration on the same data."""
    wanted = {config.signature(): config for config in configs}
    others = [experiment.experiment_id for experiment in experiments(api) if experiment.name != sweep]
    if not wanted or not others:
        return {}
    fingerprint, found = Fingerprints(), dict[str, Any]()
    for conditions in _conditions(wanted):
        for run in _finished(api, others, conditions):
            signature, known = run.data.tags["laresa.signature"], run.data.tags.get("laresa.data_fingerprint")
            if signature in wanted and signature not in found and known == fingerprint(wanted[signature]):
                found[signature] = run
    return found


def cached(sweep: str, uri: str | None, trials: Sequence[PlannedTrial]) -> set[str]:
    """Signatures of those of the trials that another sweep finished; nothing is copied."""
    uri = reading_uri(uri)
    if not trials or nothing_tracked(uri):
        return set()
    return set(finished_elsewhere(client(uri), sweep, [trial.config for trial in trials]))


def reuse(api: Any, sweep: str, folder: SweepFolder, trials: Iterable[PlannedTrial]) -> set[str]:
    """As `cached`, and what was found is copied to the sweep's storage; what can't be copied is not among them."""
    pending = {t.signature: t for t in trials if folder.trial(t.signature).outcome() is None}
    found = finished_elsewhere(api, sweep, [trial.config for trial in pending.values()])
    return {signature for signature, run in found.items() if _copy(api, run, pending[signature], folder)}


def check_same_data(api: Any, experiment_id: str, configs: Iterable[TrialConfig]) -> None:
    """DataError where this sweep holds a finished trial on pictures that the data set does not have any more."""
    fingerprint = Fingerprints()
    for config in {_data(config): config for config in configs}.values():
        now = fingerprint(config)
        same = _params(dict(zip(DATA_FIELDS, _data(config), strict=True)))
        other = matching("tags.laresa.data_fingerprint", now, "!=")
        for run in _finished(api, [experiment_id], [*same, other]):
            raise DataError(
                f"data set {config.dataset!r} has changed: its fingerprint is {now}, trials of this sweep finished on "
                f"{run.data.tags['laresa.data_fingerprint']} (run {run.info.run_id}): bring the pictures back, or give "
                "the changed ones a sweep of their own with --sweep"
            )


# ---------------------------------------------------------------------- copying


def _copy(api: Any, run: Any, trial: PlannedTrial, folder: SweepFolder) -> bool:
    """Copy one run's artifacts and write its outcome, last; False (and it is trained) where artifacts are missing."""
    stored = folder.trial(trial.signature)
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
        for name in ("config.json", HISTORY, "latents.npz"):
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
    return [matching(f"params.{name}", value) for name, value in fields.items()]


def _finished(api: Any, experiment_ids: Sequence[str], conditions: Sequence[str]) -> Iterator[Any]:
    """Finished trials, oldest first: an original before what was made of it."""
    done = "attributes.status = 'FINISHED'", matching("tags.laresa.state", "finished")
    return trial_runs(api, experiment_ids, *done, *conditions)

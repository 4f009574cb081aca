"""A sweep as the tracking store holds it, for whoever reads: the query, the report, status and plan."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeps.service.key import trial_key
from sweeps.service.tracking.client import (
    LATENTS,
    UNRECORDED,
    check_active,
    client,
    find_experiment,
    nothing_tracked,
    open_experiment,
    parent_run,
    reading_uri,
    sweep_url,
    trial_page,
    trial_runs,
)
from sweeps.service.tracking.local_server import has_secret
from sweeps.service.tracking.records import TrialRecord, conditions_of, record_from, with_history_of

DOWNLOADS = 8  # at once


@dataclass(frozen=True)
class Sweep:
    """Opened once (`Sweep.open`); what its parent run says is read when first asked for, and kept."""

    name: str
    uri: str
    experiment_id: str
    api: Any = field(repr=False, compare=False)

    @classmethod
    def open(cls, name: str, tracking_uri: str | None = None, *, files: bool = False) -> Sweep:
        """ConfigError: the store knows no such sweep; TrackingError: it does not answer. files: as of reading_uri."""
        uri = reading_uri(tracking_uri, files=files)
        api, experiment_id = open_experiment(uri, name)
        return cls(name, uri, experiment_id, api)

    # ------------------------------------------------------------------ its trials
    def trials(self, where: Mapping[str, Any] | None = None, *, with_history: bool = False) -> list[TrialRecord]:
        """Every trial, oldest first, in whatever state.

        where: field of TrialConfig (or "arm", "state") -> value it must have.
        with_history: also fetch the measurements of every epoch of each trial that has ended (one file a trial).
        ConfigError: unknown field in `where`.
        """
        # One without parameters is only being opened, and not yet a trial's record.
        found = [run for run in self.runs(where) if run.data.params]
        if not with_history:
            return [record_from(self.name, run) for run in found]
        with ThreadPoolExecutor(DOWNLOADS) as pool:  # each waits for the server most of the time
            return list(pool.map(lambda run: with_history_of(self.uri, self.name, run), found))

    def runs(self, where: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """MLflow's runs behind `trials`."""
        return trial_runs(self.api, [self.experiment_id], *conditions_of(where or {}, self.param_names))

    def param_names(self) -> set[str]:
        """Names of the parameters that its runs have; of a hundred of them."""
        runs = trial_page(self.api, [self.experiment_id], size=100)
        return {name for run in runs for name in run.data.params}

    def latents(self, record: TrialRecord) -> Mapping[str, Any] | None:
        """The arrays of a trial's latents.npz; None for a trial that has none (it did not finish, or kept none)."""
        if record.state != "finished":
            return None
        kept = {file.path for file in self.api.list_artifacts(record.run_id)}
        return self._arrays(record, "latents.npz") if "latents.npz" in kept else None

    def latents_by_epoch(self, record: TrialRecord) -> Mapping[int, Mapping[str, Any]]:
        """Validation latents of the epochs at which they were kept (--latents-every); empty where they were not."""
        listed = self.api.list_artifacts(record.run_id, LATENTS) if record.run_id else []
        found = {int(n[1]): file.path for file in listed if (n := re.search(r"epoch-(\d+)\.npz$", file.path))}
        return {epoch: self._arrays(record, path) for epoch, path in sorted(found.items())}

    def _arrays(self, record: TrialRecord, path: str) -> Mapping[str, Any]:
        """Of an .npz among a trial's artifacts."""
        import numpy as np

        with (
            tempfile.TemporaryDirectory() as folder,
            np.load(self.api.download_artifacts(record.run_id, path, folder)) as arrays,
        ):
            return {name: arrays[name] for name in arrays.files}

    def last_epoch(self, record: TrialRecord) -> int:
        """Of what the tracker has of a trial; 0 before its first."""
        return max((metric.step for metric in self.api.get_metric_history(record.run_id, "val/top1")), default=0)

    # ------------------------------------------------------------------ its parent run
    @cached_property
    def parent(self) -> Any:
        """The run that stands for the sweep; None where none was made yet."""
        return parent_run(self.api, self.experiment_id)

    @property
    def arms(self) -> tuple[str, ...]:
        """Labels of the study's arms, in its order; none for a sweep that recorded none."""
        return tuple(self._tag("arms") or ())

    @cached_property
    def space(self) -> dict[str, Any] | None:
        """The Optuna distributions that its search drew from, by field; None for a sweep that recorded none."""
        if (found := self._tag("space")) is None:
            return None
        from optuna.distributions import json_to_distribution

        return {name: json_to_distribution(distribution) for name, distribution in found.items()}

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that its search looked for; validation top-1 for a sweep that recorded none."""
        return tuple(self._tag("objectives") or ["val/top1"])

    @property
    def contrasts(self) -> tuple[tuple[str, str], ...]:
        """(arm, against) of the primary contrasts, named before anything was trained."""
        return tuple((arm, against) for arm, against in self._tag("contrasts") or ())

    @property
    def replicates(self) -> tuple[tuple[int, int], ...]:
        """(seed, fold), in the order in which they were planned."""
        return tuple((seed, fold) for seed, fold in self._tag("replicates") or ())

    @property
    def design(self) -> str:
        """ "fixed", or "sequential": replicates were added until its contrasts were decided."""
        return self._tag("design") or "fixed"

    @property
    def margin(self) -> float:
        """Points within which its arms count as equivalent."""
        return float(self._tag("margin") or 1.0)

    @property
    def overlap(self) -> Mapping[str, str]:
        """Fingerprint of a test set -> that of the one with which it shares images, of those that share some."""
        return self._tag("overlap") or {}

    @property
    def looked_at(self) -> tuple[tuple[int, int], ...] | None:
        """The replicates that it had when its report was first seen whole; None: it was not yet."""
        found = self._tag("looked_at")
        return None if found is None else tuple((seed, fold) for seed, fold in found)

    def note_look(self) -> None:
        """That its report is seen now: more replicates would come after a look."""
        if self.parent is not None and self.looked_at is None and not self.left:
            self.api.set_tag(self.parent.info.run_id, "laresa.looked_at", json.dumps(self.replicates))

    @property
    def plan(self) -> dict[str, tuple[float, float]] | None:
        """name -> (planned, actual) as the runner left it; None for a sweep that was not planned."""
        found = self._tag("plan")
        return None if found is None else {name: (pair[0], pair[1]) for name, pair in found.items()}

    @property
    def plugins(self) -> Mapping[str, str]:
        """Plugin -> sha256 of those that it was run with."""
        return self._tag("plugins") or {}

    @property
    def left(self) -> bool:
        """Whether the runner has not closed it as whole."""
        return self.parent is not None and self.parent.info.status != "FINISHED"

    @property
    def planned_trials(self) -> int:
        """How many trials it is to have; 0 where that was not recorded."""
        return self._tag("trials") or 0

    @property
    def url(self) -> str | None:
        """Where it opens in MLflow's UI; None where no server answers, or its address is a secret."""
        told = self.uri.startswith("http") and not has_secret(self.uri)
        return sweep_url(self.uri, self.experiment_id) if told else None

    def attach_report(self, folder: Path) -> None:
        """Log a report to the parent run, so that it opens in MLflow's UI."""
        if self.parent is not None:
            self.api.log_artifacts(self.parent.info.run_id, str(folder), "report")

    def _tag(self, name: str) -> Any:
        text = None if self.parent is None else self.parent.data.tags.get(f"laresa.{name}")
        return None if text is None else json.loads(text)


def tracked_states(name: str, tracking_uri: str | None) -> dict[str, str]:
    """key -> state of every trial the tracker holds for a sweep; empty for a sweep it does not know."""
    return states_of(tracked_runs(name, tracking_uri))


def tracked_trials(name: str, tracking_uri: str | None) -> list[TrialRecord]:
    """Every trial of a sweep without its history; none of a sweep that the tracker does not know."""
    return [record_from(name, run) for run in tracked_runs(name, tracking_uri).values() if run.data.params]


def states_of(runs: Mapping[str, Any]) -> dict[str, str]:
    return {key: run.data.tags.get("laresa.state", "interrupted") for key, run in runs.items()}


def tracked_runs(name: str, tracking_uri: str | None) -> dict[str, Any]:
    """key -> run, as `tracked_states`."""
    uri = reading_uri(tracking_uri)
    if nothing_tracked(uri):
        return {}
    api = client(uri)
    experiment = find_experiment(api, name)
    check_active(experiment, name)
    runs = trial_runs(api, [experiment.experiment_id]) if experiment else ()
    return {
        trial_key(run.data.tags["laresa.signature"], run.data.tags.get("laresa.code", UNRECORDED)): run for run in runs
    }

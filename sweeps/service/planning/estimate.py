"""How long a study will take, from epochs that were measured; and afterwards, what came of that plan."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from laresa.config import TrialConfig
from sweeps.service.planning.plan import PlanRow
from sweeps.service.search import journal
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.outcome import reused_from
from sweeps.service.study import PlannedTrial, RunOptions, Study
from sweeps.service.tracking.client import client, experiments, matching, nothing_tracked, reading_uri, trial_runs

COST = (
    "dataset",
    "backbone",
    "batch_size",
    "input_size",
    "image_size",
)  # the fields an epoch's time is taken to follow
NEWEST = 200  # trials whose epochs give the median
CALIBRATION_EPOCHS = 2


@dataclass(frozen=True)
class Progress:
    """An Optuna study as its journal tells it. best: configuration of its best finished trial."""

    name: str
    trials: tuple[PlannedTrial, ...]
    asked: int
    told: int
    best: TrialConfig | None


@dataclass(frozen=True)
class Estimate:
    """trials, epochs: still to train. seconds: of training, in all; nan where an epoch's time is not known."""

    trials: int
    epochs: int
    seconds: float
    concurrency: int
    gpus_per_trial: float
    upper_bound: bool

    @property
    def wall_seconds(self) -> float:
        return self.seconds / max(1, min(self.concurrency, self.trials))

    @property
    def gpu_hours(self) -> float:
        return self.seconds * self.gpus_per_trial / 3600

    def lines(self) -> list[str]:
        """What a terminal shows."""
        if not self.trials:
            return []
        if math.isnan(self.seconds):
            return ["time: nothing like it was measured in this tracking store; --calibrate trains two epochs to know"]
        bound = "at most " if self.upper_bound else "about "
        places = min(self.concurrency, self.trials)
        found = [f"time: {bound}{duration(self.wall_seconds)} for {self.epochs} epochs on {places} at once"]
        if self.upper_bound:
            found[0] += " (the scheduler will stop some earlier)"
        if self.gpus_per_trial:
            found.append(f"GPU-hours: {bound}{self.gpu_hours:.3g}")
        return found


def cost_of(config: TrialConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in COST)


def measured_seconds(configs: Iterable[TrialConfig], uri: str | None, *, gpu: bool) -> dict[tuple[Any, ...], float]:
    """cost -> median seconds an epoch of the newest finished trials alike, of any sweep; without what is not known."""
    uri, wanted = reading_uri(uri), {cost_of(config) for config in configs}
    if nothing_tracked(uri):
        return {}
    api = client(uri)
    everywhere = [experiment.experiment_id for experiment in experiments(api)]
    done = matching("tags.laresa.state", "finished"), matching("tags.laresa.device", "cuda%" if gpu else "cpu%", "LIKE")
    found = {}
    for cost in wanted:
        alike = [matching(f"params.{name}", value) for name, value in zip(COST, cost, strict=True)]
        runs = islice(trial_runs(api, everywhere, *done, *alike, newest_first=True, page=NEWEST), NEWEST)
        seconds = [run.data.metrics["seconds/epoch"] for run in runs if "seconds/epoch" in run.data.metrics]
        if seconds:
            found[cost] = statistics.median(seconds)
    return found


def calibrate(config: TrialConfig, threads: int) -> float:
    """Seconds an epoch, from the second of two that are trained now (the first warms up) and kept nowhere."""
    import torch

    from laresa.training import train

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        steps = train(config.replace(epochs=max(CALIBRATION_EPOCHS, config.epochs)))
        return [next(steps).seconds for _ in range(CALIBRATION_EPOCHS)][-1]
    finally:
        torch.set_num_threads(before)


def estimate(
    study: Study,
    rows: Sequence[PlanRow],
    progress: Mapping[str, Progress],
    seconds: Mapping[tuple[Any, ...], float],
    folder: SweepFolder,
    options: RunOptions,
) -> Estimate:
    """What is left of a study: its searches' trials not told yet, and the rows of its plan that are not done."""
    left = [(row.trial.config, _epochs_left(row, folder)) for row in rows if not row.done]
    for search in study.searches:
        told = progress[search.name].told if search.name in progress else 0
        left += [(search.base, search.base.epochs)] * max(0, search.trials - told)
    return Estimate(
        trials=len(left),
        epochs=sum(epochs for _, epochs in left),
        seconds=sum(epochs * seconds.get(cost_of(config), math.nan) for config, epochs in left),
        concurrency=options.concurrency or _fitting_here(options),
        gpus_per_trial=options.gpus_per_trial,
        upper_bound=any(search.scheduler != "none" for search in study.searches),
    )


def _epochs_left(row: PlanRow, folder: SweepFolder) -> int:
    stored = folder.trial(row.trial.signature).checkpoints()
    done = int(stored[0].stem.removeprefix("checkpoint-")) if stored else 0
    return max(0, row.trial.config.epochs - done)


def _fitting_here(options: RunOptions) -> int:
    """How many trials this machine holds at once; a cluster's number is given with --concurrency."""
    places = [(os.cpu_count() or 1) / options.cpus_per_trial]
    if options.gpus_per_trial:
        import torch

        places.append(torch.cuda.device_count() / options.gpus_per_trial)
    return max(1, math.floor(min(places) + 1e-9))


def read_journal(study: Study, folder: SweepFolder) -> dict[str, Progress]:
    """What the study's searches have asked so far, by name; nothing is written."""
    path = folder.file(journal.NAME)
    if not study.searches or not path.exists():
        return {}
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with journal.damage_named(path):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        known = {found.study_name for found in storage.get_all_studies()}
    names = [search.name for search in study.searches if search.name in known]
    return {name: _progress(optuna.load_study(study_name=name, storage=storage)) for name in names}


def _progress(study: Any) -> Progress:
    asked = [trial for trial in study.get_trials(deepcopy=False) if "config" in trial.user_attrs]
    configs = {t.user_attrs["signature"]: TrialConfig.from_dict(t.user_attrs["config"]) for t in asked}
    # Of several objectives none is the best; a study without a finished trial has none either.
    best = study.best_trial if len(study.directions) == 1 and study.best_trials else None
    return Progress(
        name=study.study_name,
        trials=tuple(PlannedTrial(study.study_name, config, "search") for config in configs.values()),
        asked=len(asked),
        told=sum(trial.state.is_finished() for trial in asked),
        best=None if best is None else TrialConfig.from_dict(best.user_attrs["config"]),
    )


# ---------------------------------------------------------------------- plan against actual


def note_plan(study: Study, options: RunOptions, folder: SweepFolder, uri: str) -> None:
    """Before anything is trained: what the whole study should take. A sweep that was extended is planned anew."""
    if (folder.read("estimate.json") or {}).get("trials") == study.size:
        return
    configs = [trial.config for trial in study.trials()]
    configs += [search.base for search in study.searches for _ in range(search.trials)]
    seconds = measured_seconds(configs, uri, gpu=options.gpus_per_trial > 0)
    training = sum(config.epochs * seconds.get(cost_of(config), math.nan) for config in configs)
    planned = {"trials": study.size, "epochs": sum(config.epochs for config in configs)}
    known = {} if math.isnan(training) else {"training seconds": training}
    folder.write("estimate.json", {**planned, **known, "gpus_per_trial": options.gpus_per_trial})


def actual_against_plan(folder: SweepFolder) -> dict[str, tuple[float, float]]:
    """What the parent's tag laresa.plan holds: `against_actual` of all that this sweep's storage knows."""
    return against_actual(folder.read("estimate.json") or {}, folder.outcomes())


def against_actual(
    planned: Mapping[str, float], outcomes: Iterable[Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """name -> (planned, actual) for trials, epochs, training seconds and GPU-hours; what was not planned is left out.

    A trial reused from another sweep counts as a trial; its epochs and seconds were not spent here.
    """
    concluded = list(outcomes)
    rows = [row for o in concluded if reused_from(o["provenance"]) is None for row in o["history"]]
    seconds = sum(row["seconds"] for row in rows)
    actual = {"trials": len(concluded), "epochs": len(rows), "training seconds": seconds}
    pairs = {name: (float(planned[name]), float(value)) for name, value in actual.items() if name in planned}
    if gpus := planned.get("gpus_per_trial") if "training seconds" in pairs else None:
        before, after = pairs["training seconds"]
        pairs["GPU-hours"] = (before * gpus / 3600, after * gpus / 3600)
    return pairs


def duration(seconds: float) -> str:
    """In the unit a person would say."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"

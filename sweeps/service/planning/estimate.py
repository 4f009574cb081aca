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
from sweeps.service.search.budget import Spent, choose
from sweeps.service.search.budget import spent as spent_by
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.outcome import reused_from
from sweeps.service.study import Choice, PlannedTrial, RunOptions, Search, Study
from sweeps.service.tracking.client import client, experiments, matching, nothing_tracked, reading_uri, trial_runs

# The fields an epoch's time is taken to follow.
COST = (
    *("dataset", "method", "backbone", "batch_size", "input_size", "image_size"),
    *("stem", "train_fraction", "shots"),
)
NEWEST = 200  # trials whose epochs give the median


@dataclass(frozen=True)
class Progress:
    """An Optuna study as its journal tells it. choice: what it would end with now; None with several objectives.

    heard: signatures of the trials that it was told the end of.
    """

    trials: tuple[PlannedTrial, ...]
    spent: Spent
    choice: Choice | None
    heard: frozenset[str] = frozenset()


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
            return ["time: nothing like it was measured in this tracking store; --calibrate trains some steps to know"]
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
    found = {}
    for cost, runs in _alike(configs, uri, gpu=gpu):
        seconds = [run.data.metrics["seconds/epoch"] for run in runs if "seconds/epoch" in run.data.metrics]
        if seconds:
            found[cost] = statistics.median(seconds)
    return found


def measured_memory(configs: Iterable[TrialConfig], uri: str | None) -> float | None:
    """The greatest peak on a GPU, in GiB, of the newest finished trials alike; None where one has no like."""
    greatest = []
    for _, runs in _alike(configs, uri, gpu=True):
        peaks = [float(peak) for run in runs if (peak := run.data.tags.get("laresa.gpu_memory_gib"))]
        greatest.append(max(peaks, default=math.nan))
    return None if any(map(math.isnan, greatest)) else max(greatest, default=None)


def _alike(configs: Iterable[TrialConfig], uri: str | None, *, gpu: bool) -> list[tuple[tuple[Any, ...], list[Any]]]:
    """(cost, the newest finished runs of that cost on such a device, of any sweep), for each cost among `configs`."""
    uri, wanted = reading_uri(uri), {cost_of(config) for config in configs}
    if nothing_tracked(uri):
        return []
    api = client(uri)
    everywhere = [experiment.experiment_id for experiment in experiments(api)]
    done = matching("tags.laresa.state", "finished"), matching("tags.laresa.device", "cuda%" if gpu else "cpu%", "LIKE")
    found = []
    for cost in wanted:
        alike = [matching(f"params.{n}", v) for n, v in zip(COST, cost, strict=True) if v is not None]
        runs = islice(trial_runs(api, everywhere, *done, *alike, newest_first=True, page=NEWEST), NEWEST)
        absent = [name for name, value in zip(COST, cost, strict=True) if value is None]
        found.append((cost, [run for run in runs if not any(name in run.data.params for name in absent)]))
    return found


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
        spent = progress[search.name].spent if search.name in progress else Spent()
        whole, rest = divmod(spent.left(search), search.base.epochs)
        left += [(search.base, search.base.epochs)] * whole + [(search.base, rest)] * (rest > 0)
    return Estimate(
        trials=len(left),
        epochs=sum(epochs for _, epochs in left),
        seconds=sum(epochs * seconds.get(cost_of(config), math.nan) for config, epochs in left),
        concurrency=options.concurrency or _fitting_here(options),
        gpus_per_trial=options.gpus,
        upper_bound=any(search.scheduler != "none" for search in study.searches),
    )


def _epochs_left(row: PlanRow, folder: SweepFolder) -> int:
    stored = folder.trial(row.trial.key).checkpoints()
    done = int(stored[0].stem.removeprefix("checkpoint-")) if stored else 0
    return max(0, row.trial.config.epochs - done)


def _fitting_here(options: RunOptions) -> int:
    """How many trials this machine holds at once; a cluster's number is given with --concurrency."""
    places = [(os.cpu_count() or 1) / options.cpus_per_trial]
    if options.gpus:
        import torch

        places.append(torch.cuda.device_count() / options.gpus)
    return max(1, math.floor(min(places) + 1e-9))


def read_journal(study: Study, folder: SweepFolder) -> dict[str, Progress]:
    """What the study's searches have asked so far, by name; nothing is written."""
    path = folder.file(journal.NAME)
    if not study.searches or not path.exists():
        return {}
    import optuna

    from sweeps.service.search.checked_journal import CheckedJournal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with journal.damage_named(path):
        storage = optuna.storages.JournalStorage(CheckedJournal(path))
        known = {found.study_name for found in storage.get_all_studies()}
    begun = [search for search in study.searches if search.name in known]
    return {s.name: _progress(optuna.load_study(study_name=s.name, storage=storage), s) for s in begun}


def chosen_so_far(study: Study, progress: Mapping[str, Progress]) -> dict[str, Choice]:
    """What the searches that will ask for nothing more chose, by name."""
    found = {search.name: progress[search.name] for search in study.searches if search.name in progress}
    ended = [s.name for s in study.searches if s.name in found and _ended(s, found[s.name])]
    return {name: choice for name in ended if (choice := found[name].choice) is not None}


def _ended(search: Search, found: Progress) -> bool:
    """Whether it will ask for nothing more."""
    return not found.spent.running and not found.spent.room(search)


def _progress(study: Any, search: Search) -> Progress:
    asked = [trial for trial in study.get_trials(deepcopy=False) if "config" in trial.user_attrs]
    configs = {t.user_attrs["signature"]: TrialConfig.from_dict(t.user_attrs["config"]) for t in asked}
    return Progress(
        trials=tuple(PlannedTrial(search.name, config, "search") for config in configs.values()),
        spent=spent_by(study),
        choice=choose(study, search) if len(search.objectives) == 1 else None,
        heard=frozenset(trial.user_attrs["signature"] for trial in asked if trial.state.is_finished()),
    )


# ---------------------------------------------------------------------- plan against actual


def note_plan(study: Study, options: RunOptions, folder: SweepFolder, uri: str) -> None:
    """Before anything is trained: what the whole study should take. A sweep that was extended is planned anew."""
    if options.gpus_per_trial is None or (folder.read_derived("estimate.json") or {}).get("trials") == study.size:
        return  # planned already; or all is trained, and no device had to be decided
    configs = [trial.config for trial in study.trials()]
    configs += [search.base for search in study.searches for _ in range(search.trials)]
    seconds = measured_seconds(configs, uri, gpu=options.gpus > 0)
    training = sum(config.epochs * seconds.get(cost_of(config), math.nan) for config in configs)
    planned = {"trials": study.size, "epochs": sum(config.epochs for config in configs)}
    known = {} if math.isnan(training) else {"training seconds": training}
    folder.write("estimate.json", {**planned, **known, "gpus_per_trial": options.gpus})


def actual_against_plan(folder: SweepFolder) -> dict[str, tuple[float, float]]:
    """What the parent's tag laresa.plan holds: `against_actual` of all that this sweep's storage knows."""
    return against_actual(folder.read_derived("estimate.json") or {}, folder.outcomes())


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

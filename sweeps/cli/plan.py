"""`laresa plan`: every trial a study would run, what is finished already, how long the rest takes. Runs nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.service.planning import estimate as estimating
from sweeps.service.planning import plan as planning
from sweeps.service.planning.estimate import Progress
from sweeps.service.planning.plan import PlanRow
from sweeps.service.planning.reuse import with_cached
from sweeps.service.search.budget import Spent
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.open import sweep_folder
from sweeps.service.study import RunOptions, Search, Study
from sweeps.service.tracking.records import tracked_states


def show_plan(study: Study, options: RunOptions, *, as_json: bool, calibrate: bool) -> Study:
    """Print the plan; the study with the configurations that its searches chose, as far as they are done."""
    if study.searches:
        from sweeps.service.driver.schedulers import check_searches  # imports Ray

        check_searches(study.searches)
    folder = sweep_folder(study.name, options.storage)
    planning.check_plan(study, folder)
    progress = estimating.read_journal(study, folder)
    done = {s.name: progress[s.name] for s in study.searches if s.name in progress and _ended(s, progress[s.name])}
    chosen = study.chosen({name: found.choice for name, found in done.items() if found.choice is not None})
    tracked = tracked_states(study.name, options.tracking_uri)
    rows = with_cached(planning.plan(chosen, folder, tracked), study.name, options.tracking_uri)
    planned = {row.trial.signature for row in rows}
    asked = [t for found in progress.values() for t in found.trials if t.signature not in planned]
    searched = planning.rows_of(asked, folder, tracked)
    if as_json:
        print(json.dumps([row.to_dict() for row in (*searched, *rows)], indent=1))
        return chosen
    for row in searched:
        print(f"{row.trial.signature}  {row.state:10s} asked by search {row.trial.arm}")
    for row in rows:
        config = row.trial.config
        open_choice = row.trial.arm in {search.name for search in study.searches} - set(done)
        signature = "after search" if open_choice else row.trial.signature
        print(f"{signature}  {row.state:10s} {row.trial.arm}, seed {config.seed}, fold {config.fold}")
    _print_searches(study, progress)
    finished = sum(row.done for row in rows)
    if rows:
        print(f"{study.name}: {len(rows)} trials, {finished} done, {len(rows) - finished} to train")
    for line in _time(chosen, rows, progress, folder, options, calibrate):
        print(line)
    return chosen


def print_settings(module: str, study: Study) -> None:
    """Of a study whose arms can be tuned, whether they are."""
    if settings := getattr(importlib.import_module(module), "settings", None):
        print(f"{study.name}: {settings(study)}", flush=True)


def _ended(search: Search, found: Progress) -> bool:
    """Whether it will ask for nothing more."""
    return not found.spent.running and not found.spent.room(search)


def _print_searches(study: Study, progress: Mapping[str, Progress]) -> None:
    for search in study.searches:
        found = progress[search.name].spent if search.name in progress else Spent()
        budget = f"{search.trials} trials"
        if search.by_epochs:
            budget = f"budget of {search.trials} x {search.base.epochs} = {search.epochs} epochs"
        print(f"search {search.name}: {budget}; {found.asked} asked, {found.told} told, {found.epochs} epochs spent")


def _time(
    study: Study,
    rows: Sequence[PlanRow],
    progress: Mapping[str, Progress],
    folder: SweepFolder,
    options: RunOptions,
    calibrate: bool,
) -> list[str]:
    configs: list[Any] = [row.trial.config for row in rows if not row.done]
    configs += [search.base for search in study.searches]
    seconds = estimating.measured_seconds(configs, options.tracking_uri, gpu=options.gpus_per_trial > 0)
    for config in configs if calibrate else ():
        if estimating.cost_of(config) not in seconds:
            seconds[estimating.cost_of(config)] = estimating.calibrate(config, max(1, int(options.cpus_per_trial)))
    return estimating.estimate(study, rows, progress, seconds, folder, options).lines()

"""`laresa plan`: every trial a study would run, what is finished already, how long the rest takes. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sweeps.cli.show import add_json, show_json
from sweeps.cli.studies import add_studies, study_module
from sweeps.options import run_options
from sweeps.service.planning import estimate as estimating
from sweeps.service.planning import plan as planning
from sweeps.service.planning.estimate import Progress
from sweeps.service.planning.plan import PlanRow
from sweeps.service.planning.reuse import cached
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.open import sweep_folder
from sweeps.service.study import RunOptions, Study
from sweeps.service.tracking.sweep import tracked_states


def add(verbs: Any) -> None:
    verb = verbs.add_parser("plan", help="every trial a study would run, and what is finished already; runs nothing")
    for study in add_studies(verb, _plan):
        add_json(study, "trials")
        study.add_argument("--calibrate", action="store_true", help="train two epochs where no time is known")


def _plan(args: argparse.Namespace) -> int:
    study = study_module(args.study).build(args)
    study = show_plan(study, run_options(args), as_json=args.json, calibrate=args.calibrate)
    if not args.json and len(study.cells) > 1:
        print(_replicates_needed(len(study.cells) - 1, len(study.replicates)))
    return 0


def _replicates_needed(comparisons: int, replicates: int) -> str:
    """Whether so many replicates can show anything, with Holm's correction over the arms compared with the first."""
    from reports.statistics import ALPHA, replicates_needed

    needed = replicates_needed(ALPHA / comparisons)
    can = "can" if replicates >= needed else "can't"
    return (
        f"evidence: {replicates} replicates {can} show significance at {ALPHA:g} with Holm over "
        f"{comparisons} arms against the first; at least {needed} are needed (--seeds)"
    )


def show_plan(study: Study, options: RunOptions, *, as_json: bool, calibrate: bool) -> Study:
    """Print the plan; the study with the configurations that its searches chose, as far as they are done."""
    folder = sweep_folder(study.name, options.storage)
    progress = estimating.read_journal(study, folder)
    done = {
        s.name: progress[s.name] for s in study.searches if s.name in progress and progress[s.name].told >= s.trials
    }
    chosen = study.chosen({name: found.best for name, found in done.items() if found.best is not None})
    tracked = tracked_states(study.name, options.tracking_uri)
    rows = planning.plan(chosen, folder, tracked, partial(cached, study.name, options.tracking_uri))
    planned = {row.trial.signature for row in rows}
    asked = [t for found in progress.values() for t in found.trials if t.signature not in planned]
    searched = planning.rows_of(asked, folder, tracked)
    if as_json:
        show_json([row.to_dict() for row in (*searched, *rows)])
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


def _print_searches(study: Study, progress: Mapping[str, Progress]) -> None:
    for search in study.searches:
        found = progress.get(search.name)
        asked, told = (found.asked, found.told) if found else (0, 0)
        print(f"search {search.name}: {search.trials} trials, {asked} asked, {told} told")


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

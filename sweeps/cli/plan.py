"""`laresa plan`: every trial a study would run, what is finished already, how long the rest takes. Runs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeps.service.planning import estimate as estimating
from sweeps.service.planning import plan as planning
from sweeps.service.planning.code import CodeBook, OtherCode, decide, other_code, planned_now, refusal
from sweeps.service.planning.estimate import Progress, chosen_so_far
from sweeps.service.planning.plan import PlanRow
from sweeps.service.planning.reuse import with_cached
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.open import sweep_folder
from sweeps.service.study import PlannedTrial, RunOptions, Study
from sweeps.service.tracking.records import tracked_states


def show_plan(study: Study, options: RunOptions, *, as_json: bool, calibrate: bool) -> Study:
    """Print the plan; the study with the configurations that its searches chose, as far as they are done."""
    folder = sweep_folder(study.name, options.storage)
    progress = estimating.read_journal(study, folder)
    done = chosen_so_far(study, progress)
    tracked = tracked_states(study.name, options.tracking_uri)
    book, planned = CodeBook(folder), planned_now(study, folder, options)
    chosen, others = _decided(study.chosen(done), book, planned, {*folder.keys(), *tracked}, options)
    rows, elsewhere = with_cached(
        _marked(others, planning.plan(chosen, folder, tracked)),
        study.name,
        options.tracking_uri,
        accept_code=options.accept_code,
    )
    compared = {row.trial.signature for row in rows}
    asked = [chosen.find(t) for found in progress.values() for t in found.trials if t.signature not in compared]
    searched = _marked(others, planning.rows_of(asked, folder, tracked))
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
    if others:
        print(f"{study.name}: {refusal(book, others)}")
    for line in elsewhere:
        print(f"{study.name}: {line}")
    for line in _time(chosen, rows, progress, folder, options, calibrate):
        print(line)
    return chosen


def _decided(
    study: Study, book: CodeBook, planned: Sequence[PlannedTrial], keys: set[str], options: RunOptions
) -> tuple[Study, Sequence[OtherCode]]:
    """The study as `laresa run` would have it, and the trials for which it would ask about other code."""
    if options.accept_code or options.retrain:
        return decide(study, book, planned, keys, options), ()
    return replace(study, kept=book.accepted), other_code(book, planned, keys, accepted_too=False)


def _marked(others: Sequence[OtherCode], rows: Sequence[PlanRow]) -> tuple[PlanRow, ...]:
    signatures = {other.trial.signature for other in others}
    return tuple(PlanRow(row.trial, "other code") if row.trial.signature in signatures else row for row in rows)


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

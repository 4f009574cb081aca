"""`laresa plan`: every trial a study would run, what is finished already, how long the rest takes. Runs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from laresa.errors import ConfigError
from sweeps.service.planning import estimate as estimating
from sweeps.service.planning import plan as planning
from sweeps.service.planning.estimate import Progress
from sweeps.service.planning.gpus import cluster_address, decided, of_cluster, of_this_machine
from sweeps.service.planning.plan import PlanRow
from sweeps.service.planning.reuse import with_cached
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.open import sweep_folder
from sweeps.service.study import RunOptions, Study
from sweeps.service.tracking.records import tracked_states


def show_plan(study: Study, options: RunOptions, *, as_json: bool, calibrate: bool) -> Study:
    """Print the plan; the study with the configurations that its searches chose, as far as they are done."""
    folder = sweep_folder(study.name, options.storage)
    progress = estimating.read_journal(study, folder)
    done = {
        s.name: progress[s.name] for s in study.searches if s.name in progress and progress[s.name].told >= s.trials
    }
    chosen = study.chosen({name: found.best for name, found in done.items() if found.best is not None})
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
    options, device = device_here(options, study)
    print(f"device: {device}")
    for line in _time(chosen, rows, progress, folder, options, calibrate):
        print(line)
    return chosen


def device_here(options: RunOptions, study: Study) -> tuple[RunOptions, str]:
    """As `decided` on what can be seen without joining a cluster; what only the cluster knows stays None."""
    import ray

    if ray.is_initialized():
        return decided(options, study, options.tracking_uri, of_cluster)
    address = cluster_address()
    if options.gpus_per_trial is None and address is not None:
        return options, (
            f"known once the sweep joins the Ray cluster at {address}: a GPU each (or a share) where it has some, "
            "else the CPU; --gpus-per-trial fixes it"
        )
    return decided(options, study, options.tracking_uri, of_this_machine)


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
    if options.gpus_per_trial is None and calibrate:
        raise ConfigError("--calibrate: which device to measure is not known here; give --gpus-per-trial")
    if options.gpus_per_trial is None:
        return ["time: depends on the device; give --gpus-per-trial to see it"] if configs else []
    seconds = estimating.measured_seconds(configs, options.tracking_uri, gpu=options.gpus > 0)
    for config in configs if calibrate else ():
        if estimating.cost_of(config) not in seconds:
            threads, device = max(1, int(options.cpus_per_trial)), "cuda" if options.gpus else "cpu"
            seconds[estimating.cost_of(config)] = estimating.calibrate(config, threads, device)
    return estimating.estimate(study, rows, progress, seconds, folder, options).lines()

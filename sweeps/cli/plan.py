"""`laresa plan`: every trial a study would run, what is finished already, how long the rest takes. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from laresa.errors import ConfigError
from sweeps.cli.show import add_json, say, show_json
from sweeps.cli.studies import add_study_parsers, find_study
from sweeps.options import describe_recipe, run_options
from sweeps.service.planning import estimate as estimating
from sweeps.service.planning import plan as planning
from sweeps.service.planning.code import CodeBook, OtherCode, decide, other_code, planned_now, refusal
from sweeps.service.planning.estimate import Progress, chosen_so_far
from sweeps.service.planning.footprint import footprint, network_parameters, order_line
from sweeps.service.planning.gpus import cluster_address, decided, of_cluster, of_this_machine
from sweeps.service.planning.plan import PlanRow
from sweeps.service.planning.reuse import with_cached
from sweeps.service.search.budget import Spent
from sweeps.service.search.groups import described
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial, RunOptions, Study
from sweeps.service.tracking.sweep import tracked_states, tracked_trials
from sweeps.service.worker import calibrate as calibrating


def add(verbs: Any, given: str | None) -> None:
    """given: as in run.add."""
    verb = verbs.add_parser("plan", help="every trial a study would run, and what is finished already; runs nothing")
    for study in add_study_parsers(verb, given):
        study.set_defaults(handler=_plan)
        add_json(study, "trials")
        study.add_argument(
            "--calibrate",
            action="store_true",
            help="train some steps where no time is known: seconds and, on a GPU, memory",
        )


def _plan(args: argparse.Namespace) -> int:
    module = find_study(args.study)
    study = module.build(args)
    if not args.json:
        print_settings(module, study, args)
    study = show_plan(study, run_options(args), as_json=args.json, calibrate=args.calibrate)
    if not args.json and len(study.cells) > 1:
        for line in evidence(study, args.tracking_uri):
            say(f"evidence: {line}")
    return 0


def evidence(study: Study, tracking_uri: str | None) -> list[str]:
    """What the study can show at all, counted as its report will; what its effects so far ask for."""
    from reports.claims import FIXED, SEQUENTIAL, SETS, Design
    from reports.decide import first_look, outlook
    from reports.statistics import ALPHA, replicates_needed

    tests, pairs = (len(study.contrasts) or len(study.arms) - 1) * len(study.blocks), len(study.replicates)
    sets = len({replicate.fold for replicate in study.replicates})
    n, units, claim = (sets, "test sets", "new") if sets >= SETS else (pairs, "pairs", "these")
    lines = [f"primary contrast: {arm} against {against}" for arm, against in study.contrasts]
    lines += [f"{pairs} replicates on {sets} distinct test sets speak of {claim} test sets, n = {n} {units}"]
    if sets < SETS:
        lines[-1] += f"; {SETS} distinct ones would speak of new ones"
    design = Design(study.contrasts, SEQUENTIAL if study.sequential else FIXED, margin=study.margin)
    if study.sequential:
        lines.append(f"looked at after {first_look(tests)} replicates and each that follows, until all are decided")
    else:
        over = f"{tests} primary contrasts" if study.contrasts else f"{tests} arms against the first"
        needed = replicates_needed(ALPHA / tests)
        can = "can" if n >= needed else "can't"
        lines.append(
            f"n = {n} {can} show significance at {ALPHA:g} with Holm over {over}; at least {needed} are needed "
            "(--seeds)"
        )
    return [*lines, *outlook(tracked_trials(study.name, tracking_uri), design)]


def show_plan(study: Study, options: RunOptions, *, as_json: bool, calibrate: bool) -> Study:
    """Print the plan; the study with the configurations that its searches chose, as far as they are done."""
    from sweeps.service.driver.request import check_request  # imports Ray for a search

    absent: list[str] = []
    folder = check_request(study, options, absent)
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
        show_json([row.to_dict() for row in (*searched, *rows)])
        return chosen
    for row in searched:
        say(f"{row.trial.signature}  {row.state:10s} asked by search {row.trial.arm}")
    for row in rows:
        config = row.trial.config
        where = f", {config.dataset}, {config.backbone}" if len(study.blocks) > 1 else ""
        open_choice = row.trial.arm in {search.name for search in study.searches} - set(done)
        signature = "after search" if open_choice else row.trial.signature
        say(f"{signature}  {row.state:10s} {row.trial.arm}{where}, seed {config.seed}, fold {config.fold}")
    _print_searches(study, progress)
    finished = sum(row.done for row in rows)
    if rows:
        say(f"{study.name}: {len(rows)} trials, {finished} done, {len(rows) - finished} to train")
    for line in absent:
        say(f"{study.name}: not checked, for {line}")
    if others:
        say(f"{study.name}: {refusal(book, others)}")
    for line in (*elsewhere, *described([row.trial for row in rows if not row.done], study.searches)):
        say(f"{study.name}: {line}")
    options, device = device_here(options, study)
    say(f"device: {device}")
    for line in _time(chosen, rows, progress, folder, options, calibrate):
        say(line)
    for line in _space(chosen, rows, options):
        say(line)
    return chosen


def print_settings(module: Any, study: Study, args: argparse.Namespace) -> None:
    """Of a study whose arms can be tuned, whether they are; of one with the studies' options, its recipe."""
    if settings := getattr(module, "settings", None):
        say(f"{study.name}: {settings(study)}", flush=True)
    if "recipe" in args:
        for line in getattr(module, "recipe_lines", lambda args: [describe_recipe(args)])(args):
            say(f"{study.name}: {line}", flush=True)


def _decided(
    study: Study, book: CodeBook, planned: Sequence[PlannedTrial], keys: set[str], options: RunOptions
) -> tuple[Study, Sequence[OtherCode]]:
    """The study as `laresa run` would have it, and the trials for which it would ask about other code."""
    if options.accept_code or options.retrain:
        return decide(study, book, planned, keys, options), ()
    return replace(study, kept=book.accepted), other_code(book, planned, keys, accepted_too=False)


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


def _marked(others: Sequence[OtherCode], rows: Sequence[PlanRow]) -> tuple[PlanRow, ...]:
    signatures = {other.trial.signature for other in others}
    return tuple(PlanRow(row.trial, "other code") if row.trial.signature in signatures else row for row in rows)


def _print_searches(study: Study, progress: Mapping[str, Progress]) -> None:
    for search in study.searches:
        found = progress[search.name].spent if search.name in progress else Spent()
        budget = f"{search.trials} trials"
        if search.by_epochs:
            budget = f"budget of {search.trials} x {search.base.epochs} = {search.epochs} epochs"
        say(f"search {search.name}: {budget}; {found.asked} asked, {found.told} told, {found.epochs} epochs spent")


def _space(study: Study, rows: Sequence[PlanRow], options: RunOptions) -> list[str]:
    """What will be filled, and what can be read first."""
    left = [row.trial.config for row in rows if not row.done]
    searched = [search.base for search in study.searches for _ in range(search.trials)]
    if not left + searched:
        return []
    found = footprint([*left, *searched], options, options.concurrency or 1, network_parameters)
    early = sum(row.trial.arm in study.early for row in rows)
    order = [order_line(study.early, early, len(rows))] if study.early and len(study.blocks) > 1 else []
    return [*found.lines(), *order]


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
    lines = []
    for cost, config in {estimating.cost_of(config): config for config in configs}.items():
        if calibrate and cost not in seconds:
            threads, device = max(1, int(options.cpus_per_trial)), "cuda" if options.gpus else "cpu"
            found = calibrating.calibrate(config, threads, device)
            seconds[cost] = found.seconds
            memory = "" if found.gib is None else f", {found.gib:.1f} GiB of the GPU"
            lines.append(
                f"measured: {config.backbone} on {config.dataset}, batch {config.batch_size}: {found.seconds:.3g} s an "
                f"epoch{memory}"
            )
    return [*lines, *estimating.estimate(study, rows, progress, seconds, folder, options).lines()]

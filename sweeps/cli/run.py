"""`laresa run` and `laresa demo`: a study, then its report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.cli.show import say
from sweeps.cli.studies import add_plugin_option, add_study_parsers, find_study
from sweeps.options import run_options

if TYPE_CHECKING:
    from sweeps.service.driver.runner import SweepResult
    from sweeps.service.study import RunOptions, Study

SPENT = 3  # the exit code of a sweep that a budget ended
STOPPED = 130  # the exit code that shells know for Ctrl-C


def add(verbs: Any, given: str | None) -> None:
    """given: the study of the command line, which may be a file or module."""
    demo = verbs.add_parser("demo", help="the main job on embedded data, in minutes: eleven arms on ten test sets")
    find_study("demo").add_options(demo)
    add_plugin_option(demo)
    demo.set_defaults(handler=_demo, study="demo")
    run = verbs.add_parser("run", help="run a study; run again = continue, nothing is trained twice")
    for study in add_study_parsers(run, given):
        study.set_defaults(handler=_run)


def _demo(args: argparse.Namespace) -> int:
    """The heads with their report; then the networks, and a report of both."""
    from sweeps.cli.report import report_together
    from sweeps.demo import NETWORKS, networks
    from sweeps.service.driver.runner import run

    if (code := _run(args)) or args.no_networks:
        return code
    study = networks(args)
    say(f"{study.name}: {len(study.cells)} arms trained end to end, on {study.cells[0].config.dataset}")
    result = run(study, run_options(args))
    if not result.stopped:
        out = Path("build") / f"{args.sweep}-and-{NETWORKS}"
        report_together([args.sweep, study.name], args.tracking_uri, out)
        return _ended(result, out / "report.html")
    return _stopped(result)


def _run(args: argparse.Namespace) -> int:
    from sweeps.cli.plan import print_settings
    from sweeps.cli.report import print_table, write_report
    from sweeps.service.driver.runner import run

    module = find_study(args.study)
    study = module.build(args)
    print_settings(module, study, args)
    options = run_options(args)
    result = until_decided(study, options) if study.sequential else run(study, options)
    if result.stopped:
        return _stopped(result)
    report = write_report(study.name, args.tracking_uri, Path("build") / study.name)
    print_table(report)
    for line in result.searched:
        say(f"searched    {line}")
    return _ended(result, report.html)


def _stopped(result: SweepResult) -> int:
    """By whom or what; the exit code."""
    say(f"stopped: {_counts(result.states)}; {result.budget or 'the same command continues'}")
    say(f"`laresa report {result.sweep.sweep}` shows what there is")
    return SPENT if result.budget else STOPPED


def _ended(result: SweepResult, page: Path) -> int:
    """What came of it, and where it lies; the exit code."""
    from sweeps.service.tracking.client import sweep_url

    say(f"states      {_counts(result.states)}")
    say(f"time        {_time(result)}")
    say(f"report      {page}")
    say(f"MLflow      {sweep_url(result.sweep.uri, result.sweep.experiment_id)}")
    return 0 if set(result.states) <= {"finished", "pruned"} else 1


def until_decided(study: Study, options: RunOptions) -> SweepResult:
    """Replicate by replicate, looking after each, until the primary contrasts are decided or all replicates are there.

    Replicates are taken in the study's order; the first look comes when something can be decided.
    """
    from reports.decide import first_look, undecided
    from sweeps.cli.report import design_of
    from sweeps.service.driver.runner import run
    from sweeps.service.tracking.sweep import Sweep

    for count in range(first_look(len(study.contrasts)), len(study.replicates) + 1):
        result = run(replace(study, replicates=study.replicates[:count]), options)
        if result.stopped:
            break
        sweep = Sweep.open(study.name, options.tracking_uri)
        left = undecided(sweep.trials(), design_of(sweep))
        said = f"undecided: {', '.join(left)}" if left else "decided"
        say(f"{study.name}: {count} replicates, {said}", flush=True)
        if not left:
            break
    return result


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _time(result: SweepResult) -> str:
    if not result.wall_seconds:
        return "nothing was left to train"
    return (
        f"{result.wall_seconds:.0f} s for the sweep, {result.training_seconds:.0f} s of it training "
        f"on {result.concurrency} workers: efficiency {result.efficiency:.2f}"
    )

"""The `laresa` command. Exit code 0: done; 1: work failed; 2: bad use."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laresa.errors import LaresaError, NonFiniteLossError
from sweeps.cli.fields import add_fields_verb
from sweeps.cli.plugin import add_plugin_verb
from sweeps.cli.rerun import add_rerun_verb
from sweeps.cli.server import add_server_verb
from sweeps.cli.studies import add_plugin_option, add_study_parsers, find_study, preload
from sweeps.cli.submit import add_submit_verb
from sweeps.options import add_place_options, dataset_name, run_options

STOPPED = 130  # the exit code that shells know for Ctrl-C
DEMO = ["--sweep", "demo", "--dataset", "emoji120"]


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        args = build_parser(words).parse_args(words)
        return int(args.handler(args) or 0)
    except NonFiniteLossError as error:
        print(f"laresa: {error}", file=sys.stderr)
        return 1
    except LaresaError as error:
        print(f"laresa: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("laresa: stopped; what was measured is kept", file=sys.stderr)
        return STOPPED


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """words: the command line, whose plugins are loaded and whose study, if it is a file or module, has a parser."""
    given = preload(words)
    parser = argparse.ArgumentParser(prog="laresa", description="Sweeps for classifiers trained with label semantics.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    demo = verbs.add_parser("demo", help="the main job on the embedded data: ten arms, three replicates, a report")
    find_study("ablation").add_options(demo)
    add_plugin_option(demo)
    demo.set_defaults(handler=_demo)
    plan = verbs.add_parser("plan", help="every trial a study would run, and what is finished already; runs nothing")
    for study in add_study_parsers(plan, given):
        study.add_argument("--json", action="store_true", help="print a list of trials as JSON")
        study.add_argument("--calibrate", action="store_true", help="train two epochs where no time is known")
        study.set_defaults(handler=_plan)
    run = verbs.add_parser("run", help="run a study; run again = continue, nothing is trained twice")
    for study in add_study_parsers(run, given):
        study.set_defaults(handler=_run)
    _add_query_verbs(verbs)
    return parser


def _add_query_verbs(verbs: Any) -> None:
    status = verbs.add_parser("status", help="a sweep's trials by state")
    best = verbs.add_parser("best", help="the best configurations of a sweep")
    report = verbs.add_parser("report", help="tables, figures and report.html of a sweep")
    for verb in (status, best, report):
        verb.add_argument("sweep", metavar="SWEEP")
        add_place_options(verb)
    for verb in (status, best):
        verb.add_argument("--json", action="store_true", help="print a list of records as JSON")
    best.add_argument(
        "--metric",
        metavar="METRIC,...",
        help="at the epoch best on validation; of several, the Pareto front (default: what the sweep searched by)",
    )
    best.add_argument("--n", type=int, help="how many (default: 1; of a Pareto front all)")
    best.add_argument("--by", metavar="FIELD", help="the best of each value of a field, such as subset")
    report.add_argument("--out", metavar="DIR", help="folder to write (default: build/SWEEP)")
    _add_data_verb(verbs)
    add_server_verb(verbs)
    add_rerun_verb(verbs)
    add_submit_verb(verbs)
    add_fields_verb(verbs)
    add_plugin_verb(verbs)
    ui = verbs.add_parser("ui", help="MLflow's address; starts the local server if none runs")
    ui.add_argument("--stop", action="store_true", help="end the local server")
    status.set_defaults(handler=_status)
    best.set_defaults(handler=_best)
    report.set_defaults(handler=_report)
    ui.set_defaults(handler=_ui)


# ---------------------------------------------------------------------- running


def _add_data_verb(verbs: Any) -> None:
    actions = verbs.add_parser("data", help="data sets: what is there, where it comes from, does it fit its taxonomy")
    actions = actions.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the data sets that have a name")
    listing.add_argument("--json", action="store_true", help="print a list of records as JSON")
    check = actions.add_parser("check", help="decode every image and hold the data set against its taxonomy")
    check.add_argument("dataset", metavar="NAME_OR_PATH")
    build = actions.add_parser("build", help="make emoji120 from the vendors' npm packages")
    build.add_argument("dataset", choices=["emoji120"])
    build.add_argument("--out", default="emoji120.npz", metavar="FILE", help="use it with --dataset FILE")
    build.add_argument("--size", type=int, default=32, metavar="PIXELS")
    build.add_argument("--classes", metavar="CSV", help="another class list (columns: codepoint,fine,coarse,category)")
    listing.set_defaults(handler=_data_list)
    check.set_defaults(handler=_data_check)
    build.set_defaults(handler=_data_build)


def _demo(args: argparse.Namespace) -> int:
    args.sweep = args.sweep or "demo"
    args.study = "ablation"
    return _run(args)


def _study(args: argparse.Namespace) -> Any:
    return find_study(args.study).build(args)


def _plan(args: argparse.Namespace) -> int:
    from sweeps.cli.plan import show_plan

    study = show_plan(_study(args), run_options(args), as_json=args.json, calibrate=args.calibrate)
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


def _run(args: argparse.Namespace) -> int:
    from sweeps.service.driver.runner import run
    from sweeps.service.tracking.client import sweep_url

    study = _study(args)
    result = run(study, run_options(args))
    if result.stopped:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
        print(f"stopped: {counts}; the same command continues, `laresa report {study.name}` shows what there is")
        return STOPPED
    report = _write_report(study.name, args.tracking_uri, Path("build") / study.name)
    _print_table(report)
    print(f"states      {', '.join(f'{count} {state}' for state, count in sorted(result.states.items()))}")
    print(f"time        {_time(result)}")
    print(f"report      {report.html}")
    print(f"MLflow      {sweep_url(result.sweep.uri, result.sweep.experiment_id)}")
    return 0 if set(result.states) <= {"finished", "pruned"} else 1


def _time(result: Any) -> str:
    if not result.wall_seconds:
        return "nothing was left to train"
    return (
        f"{result.wall_seconds:.0f} s for the sweep, {result.training_seconds:.0f} s of it training "
        f"on {result.concurrency} workers: efficiency {result.efficiency:.2f}"
    )


# ---------------------------------------------------------------------- asking


def _status(args: argparse.Namespace) -> int:
    from sweeps.service.planning.status import status
    from sweeps.service.storage.open import sweep_folder

    found = status(args.sweep, sweep_folder(args.sweep, args.storage), tracking_uri=args.tracking_uri)
    listed = [_brief(record) for record in found.records]
    print(json.dumps(listed, indent=1) if args.json else "\n".join(found.lines()))
    return 0


def _best(args: argparse.Namespace) -> int:
    from sweeps.service.tracking.best import best_of, pareto_of
    from sweeps.service.tracking.sweep import Sweep

    sweep = Sweep.open(args.sweep, args.tracking_uri)
    metrics = tuple(args.metric.split(",")) if args.metric else sweep.objectives
    if len(metrics) > 1:
        records = pareto_of(sweep, metrics, by=args.by)[: args.n]
    else:
        records = best_of(sweep, metrics[0], n=1 if args.n is None else args.n, by=args.by)
    if args.json:
        print(json.dumps([_brief(record) for record in records], indent=1))
        return 0
    for record in records:
        values = ", ".join(
            f"{k} {v:.4f}"
            for k, v in sorted(record.metrics.items())
            if k in {"test/top1", *metrics, *(f"best/{metric}" for metric in metrics)}
        )
        print(f"{record.signature}  {record.arm}, seed {record.config.seed}, fold {record.config.fold}: {values}")
        print("  " + json.dumps(record.config.to_dict()))
    return 0


def _brief(record: Any) -> dict[str, Any]:
    fields: dict[str, Any] = record.to_dict()
    fields.pop("history")
    return fields


def _report(args: argparse.Namespace) -> int:
    report = _write_report(args.sweep, args.tracking_uri, Path(args.out) if args.out else Path("build") / args.sweep)
    _print_table(report)
    print(f"report      {report.html}")
    return 0


def _write_report(sweep: str, tracking_uri: str | None, out: Path) -> Any:
    from reports.build import build_report
    from sweeps.service.tracking.sweep import Sweep

    opened = Sweep.open(sweep, tracking_uri)
    report = build_report(
        opened.trials(with_history=True),
        out,
        latents=opened.latents,
        title=sweep,
        tracking_url=opened.url,
        plan=opened.plan,
        space=opened.space,
        objectives=opened.objectives,
    )
    opened.attach_report(out)
    return report


def _print_table(report: Any) -> None:
    """The report's first table (top-1 by arm; the best of a search) as it reads on a terminal, and its summary."""
    from rich.console import Console
    from rich.markdown import Markdown

    tables = [table for table in report.tables if table.suffix == ".md"]
    Console().print(Markdown(tables[0].read_text()))
    print("\n".join(report.summary))


def _data_list(args: argparse.Namespace) -> int:
    from laresa.data.report import describe

    records = describe()
    if args.json:
        print(json.dumps(records, indent=1))
        return 0
    for record in records:
        there = "here" if record["present"] else "not here"
        print(f"{record['name']:14s} {there:9s} {record['classes']:4d} classes {record['images']:7d} images", end="  ")
        print(f"{record['folds']} folds  {record['licence']}; {record['origin']}")
    return 0


def _data_check(args: argparse.Namespace) -> int:
    from laresa.data.report import check

    findings = check(dataset_name(args.dataset))
    print("\n".join(findings) or f"{args.dataset}: nothing to remark")
    return 1 if findings else 0


def _data_build(args: argparse.Namespace) -> int:
    from laresa.data.emoji120_build import build

    print(build(args.out, size=args.size, classes_csv=args.classes))
    return 0


def _ui(args: argparse.Namespace) -> int:
    from sweeps.service.tracking.local_server import LocalServer

    server = LocalServer()
    if args.stop:
        print("stopped" if server.stop() else "no local server runs")
        return 0
    url = server.launch()
    server.wait(url)
    print(url)
    return 0


if __name__ == "__main__":
    sys.exit(main())

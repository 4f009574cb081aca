"""`laresa report`: tables, figures and one page of what a sweep measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.options import add_place_options

if TYPE_CHECKING:
    from reports.build import Report


def add(verbs: Any) -> None:
    verb = verbs.add_parser("report", help="tables, figures and report.html of a sweep, or of several side by side")
    verb.add_argument("sweeps", metavar="SWEEP", nargs="+")
    add_place_options(verb)
    verb.add_argument("--out", metavar="DIR", help="folder to write (default: build/SWEEP, or build/SWEEP+SWEEP)")
    verb.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> int:
    names = list(dict.fromkeys(args.sweeps))
    out = Path(args.out) if args.out else Path("build") / "+".join(names)
    report = write_report(names[0], args.tracking_uri, out) if len(names) == 1 else together(names, args, out)
    print_table(report)
    print(f"report      {report.html}")
    return 0


def write_report(name: str, tracking_uri: str | None, out: Path) -> Report:
    """The report of a sweep under `out`, and on its parent run in MLflow."""
    from reports.build import build_report
    from sweeps.service.tracking.sweep import Sweep

    sweep = Sweep.open(name, tracking_uri)
    report = build_report(
        sweep.trials(with_history=True),
        out,
        latents=sweep.latents,
        title=name,
        tracking_url=sweep.url,
        plan=sweep.plan,
        arms=sweep.arms,
        space=sweep.space,
        objectives=sweep.objectives,
    )
    sweep.attach_report(out)
    return report


def together(names: Sequence[str], args: argparse.Namespace, out: Path) -> Report:
    """Of several sweeps, mostly of a data set or backbone each: what each compared, side by side."""
    from reports.build import build_report
    from sweeps.service.tracking.sweep import Sweep

    opened = {name: Sweep.open(name, args.tracking_uri) for name in names}
    return build_report(
        [trial for sweep in opened.values() for trial in sweep.trials(with_history=True)],
        out,
        latents=lambda trial: opened[trial.sweep].latents(trial),
        title=", ".join(names),
        arms=list(dict.fromkeys(arm for sweep in opened.values() for arm in sweep.arms)),
    )


def print_table(report: Report) -> None:
    """The report's first table (top-1 by arm; the best of a search) as it reads on a terminal, and its summary."""
    from rich.console import Console
    from rich.markdown import Markdown

    tables = [table for table in report.tables if table.suffix == ".md"]
    Console().print(Markdown(tables[0].read_text()))
    print("\n".join(report.summary))

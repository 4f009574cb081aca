"""`laresa report`: tables, figures and one page of what a sweep measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laresa.errors import ConfigError, printable
from sweeps.cli.show import say
from sweeps.options import add_place_options

if TYPE_CHECKING:
    from reports.build import Report
    from reports.claims import Design
    from sweeps.service.tracking.records import TrialRecord
    from sweeps.service.tracking.sweep import Sweep


def add(verbs: Any) -> None:
    verb = verbs.add_parser("report", help="tables, figures and report.html of a sweep, or of several side by side")
    verb.add_argument("sweeps", metavar="SWEEP", nargs="+")
    add_place_options(verb)
    verb.add_argument(
        "--mixed", action="store_true", help="of several sweeps: also where their code or data differ; marked then"
    )
    verb.add_argument("--out", metavar="DIR", help="folder to write (default: build/SWEEP, or build/SWEEP+SWEEP)")
    verb.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> int:
    names = list(dict.fromkeys(args.sweeps))
    out = Path(args.out) if args.out else Path("build") / "+".join(names)
    if len(names) == 1:
        report = write_report(names[0], args.tracking_uri, out)
        print_table(report)
    else:
        report = report_together(names, args.tracking_uri, out, mixed=args.mixed)
    say(f"report      {report.html}")
    return 0


def report_together(names: Sequence[str], tracking_uri: str | None, out: Path, *, mixed: bool = False) -> Report:
    """As `together`, and printed."""
    report = together(names, tracking_uri, out, mixed=mixed)
    print_table(report)
    return report


def write_report(name: str, tracking_uri: str | None, out: Path) -> Report:
    """The report of a sweep under `out`, and on its parent run in MLflow."""
    from reports.build import build_report
    from sweeps.service.tracking.arms import ArmSummary, write_arms
    from sweeps.service.tracking.sweep import Sweep

    sweep = Sweep.open(name, tracking_uri, files=True)
    records = sweep.trials(with_history=True)
    report = build_report(
        records,
        out,
        latents=sweep.latents,
        snapshots=sweep.latents_by_epoch,
        title=name,
        tracking_url=sweep.url,
        plan=sweep.plan,
        arms=sweep.arms,
        space=sweep.space,
        objectives=sweep.objectives,
        design=design_of(sweep),
        marks=marks_of(sweep, records),
    )
    sweep.attach_report(out)
    sweep.note_look()
    write_arms(sweep, [ArmSummary(label, metrics) for label, metrics in report.arms])
    return report


def design_of(*sweeps: Sweep) -> Design:
    """What the sweeps fixed in advance; of several, what any of them did."""
    from reports.claims import FIXED, SEQUENTIAL, Design

    return Design(
        contrasts=tuple(dict.fromkeys(pair for sweep in sweeps for pair in sweep.contrasts)),
        kind=SEQUENTIAL if any(sweep.design == SEQUENTIAL for sweep in sweeps) else FIXED,
        replicates=tuple(dict.fromkeys(pair for sweep in sweeps for pair in sweep.replicates)),
        same={one: other for sweep in sweeps for one, other in sweep.overlap.items()},
        margin=max(sweep.margin for sweep in sweeps),
    )


def marks_of(sweep: Sweep, records: Sequence[TrialRecord]) -> list[str]:
    """What weakens the evidence of a sweep, in sentences."""
    from reports.select import replicate

    looked = sweep.looked_at
    if looked is None or sweep.design != "fixed":
        return []
    trained = {replicate(trial) for trial in records if trial.provenance.get("role") != "search"}
    if not (more := trained - set(looked)):
        return []
    return [
        f"Extended by {len(more)} replicates to {len(trained)} after its report had been seen: p and intervals of a "
        "fixed design promise too much then. `--until decided` is made for looking."
    ]


def together(names: Sequence[str], tracking_uri: str | None, out: Path, *, mixed: bool = False) -> Report:
    """Of several sweeps, mostly of a data set or backbone each: what each compared, side by side.

    ConfigError: their code or data differ, unless mixed; then the report says so.
    """
    from reports.build import build_report
    from sweeps.service.tracking.sweep import Sweep

    opened = {name: Sweep.open(name, tracking_uri, files=True) for name in names}
    of_sweep = {name: sweep.trials(with_history=True) for name, sweep in opened.items()}
    differ = differences([trial for trials in of_sweep.values() for trial in trials])
    if differ and not mixed:
        raise ConfigError(f"{'; '.join(differ)}: no fair comparison; --mixed reports them all the same, marked")
    return build_report(
        [trial for trials in of_sweep.values() for trial in trials],
        out,
        latents=lambda trial: opened[trial.sweep].latents(trial),
        snapshots=lambda trial: opened[trial.sweep].latents_by_epoch(trial),
        title=", ".join(names),
        arms=list(dict.fromkeys(arm for sweep in opened.values() for arm in sweep.arms)),
        design=design_of(*opened.values()),
        marks=[
            *(f"Mixed: {said}." for said in differ),
            *(mark for sweep in opened.values() for mark in marks_of(sweep, of_sweep[sweep.name])),
        ],
    )


def differences(records: Sequence[TrialRecord]) -> list[str]:
    """In what the sweeps can't be compared: data sets of one name with other images, alike trials of other code."""
    found = []
    for what, tag, kind in (
        ("images", "data_fingerprint", lambda t: (t.config.dataset, t.config.to_dict().get("image_size"))),
        ("code", "code", lambda t: (t.config.to_dict().get("method"), t.config.subset, t.config.dataset)),
    ):
        known: dict[object, dict[str, str]] = {}
        for trial in records:
            if value := trial.provenance.get(tag):
                known.setdefault(kind(trial), {}).setdefault(value, trial.sweep)
        for sweeps in known.values():
            if len(set(sweeps.values())) > 1:
                found.append(f"sweeps {', '.join(sorted(set(sweeps.values())))} have different {what}")
    return sorted(set(found))


def print_table(report: Report) -> None:
    """The report's first table (top-1 by arm; the best of a search) as it reads on a terminal, and its summary."""
    from rich.console import Console
    from rich.markdown import Markdown

    tables = [table for table in report.tables if table.suffix == ".md"]
    Console().print(Markdown(printable(tables[0].read_text())))
    say("\n".join(report.summary))

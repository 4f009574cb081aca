"""`laresa best`: the best configurations of a sweep."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from laresa.errors import ConfigError
from sweeps.cli.show import add_json, brief, say, show_json
from sweeps.options import add_place_options

if TYPE_CHECKING:
    from sweeps.service.tracking.records import TrialRecord


def add(verbs: Any) -> None:
    verb = verbs.add_parser("best", help="the best configurations of a sweep")
    verb.add_argument("sweep", metavar="SWEEP")
    add_place_options(verb)
    add_json(verb)
    verb.add_argument(
        "--metric",
        metavar="METRIC,...",
        help="at the epoch best on validation; of several, the Pareto front (default: what the sweep searched by)",
    )
    verb.add_argument("--n", type=int, help="how many (default: 1; of a Pareto front all)")
    verb.add_argument("--by", metavar="FIELD", help="the best of each value of a field, such as subset")
    verb.set_defaults(handler=_best)


def _best(args: argparse.Namespace) -> int:
    from sweeps.service.tracking.best import best_of, pareto_of
    from sweeps.service.tracking.sweep import Sweep

    sweep = Sweep.open(args.sweep, args.tracking_uri)
    metrics = tuple(args.metric.split(",")) if args.metric else sweep.objectives
    if args.n is not None and args.n < 1:
        raise ConfigError(f"--n {args.n}: expected 1 or more")
    if len(metrics) > 1:
        records = pareto_of(sweep, metrics, by=args.by)[: args.n]
    else:
        records = best_of(sweep, metrics[0], n=1 if args.n is None else args.n, by=args.by)
    if args.json:
        show_json([brief(record) for record in records])
        return 0
    for record in records:
        say(_line(record, metrics))
        say("  " + json.dumps(record.config.to_dict()))
    return 0


def _line(record: TrialRecord, metrics: Sequence[str]) -> str:
    shown = {"test/top1", *metrics, *(f"best/{metric}" for metric in metrics)}
    values = ", ".join(f"{name} {value:.4f}" for name, value in sorted(record.metrics.items()) if name in shown)
    return f"{record.signature}  {record.arm}, seed {record.config.seed}, fold {record.config.fold}: {values}"

"""`laresa status`: how a sweep stands."""

from __future__ import annotations

import argparse
from typing import Any

from sweeps.cli.show import add_json, brief, say, show_json
from sweeps.options import add_place_options


def add(verbs: Any) -> None:
    verb = verbs.add_parser("status", help="a sweep's trials by state")
    verb.add_argument("sweep", metavar="SWEEP")
    add_place_options(verb)
    add_json(verb)
    verb.set_defaults(handler=_status)


def _status(args: argparse.Namespace) -> int:
    from sweeps.service.planning.status import status
    from sweeps.service.storage.open import sweep_folder

    found = status(args.sweep, sweep_folder(args.sweep, args.storage), tracking_uri=args.tracking_uri)
    if args.json:
        show_json([brief(record) for record in found.records])
    else:
        say("\n".join(found.lines()))
    return 0

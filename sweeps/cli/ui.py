"""`laresa ui`: the address of MLflow's UI."""

from __future__ import annotations

import argparse
from typing import Any


def add(verbs: Any) -> None:
    verb = verbs.add_parser("ui", help="MLflow's address; starts the local server if none runs")
    verb.add_argument("--stop", action="store_true", help="end the local server")
    verb.set_defaults(handler=_ui)


def _ui(args: argparse.Namespace) -> int:
    from sweeps.service.tracking.local_server import LocalServer

    server = LocalServer()
    if args.stop:
        print("stopped" if server.stop() else "no local server runs")
        return 0
    print(server.wait(server.launch()))
    return 0

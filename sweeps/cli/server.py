"""`laresa server`: the options of cluster.server's AuthenticatedServer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cluster.server import PERMISSIONS, AuthenticatedServer, ServerError
from laresa.errors import ConfigError
from sweeps.cli.show import say
from sweeps.service.storage.shared_folder import home, make_home
from sweeps.service.tracking.local_server import TrackingError


def add(verbs: Any) -> None:
    server = verbs.add_parser(
        "server",
        help="MLflow for a team, with passwords",
        description="MLflow for a team. Secrets come from the environment or from files in the folder, not from here: "
        "MLFLOW_AUTH_ADMIN_PASSWORD (else one is made), MLFLOW_BACKEND_STORE_URI (else sqlite in the folder), "
        "AWS_* for s3:// artifacts.",
    )
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    server.add_argument("--port", type=int, default=5000)
    server.add_argument("--folder", metavar="DIR", help="where it keeps everything (default: .laresa/mlflow)")
    server.add_argument("--artifacts", metavar="URI", help="folder or s3://bucket/path (default: in the folder)")
    server.add_argument("--allowed-hosts", default="", metavar="H,H,...", help="more names by which clients call it")
    server.add_argument("--proxy", metavar="ADDRESS", help="the TLS proxy, whose X-Forwarded-* headers are believed")
    server.add_argument("--default-permission", default="READ", choices=PERMISSIONS, help="on others' sweeps")
    server.add_argument("--detach", action="store_true", help="in the background; returns when it answers")
    server.set_defaults(handler=_server)


def _server(args: argparse.Namespace) -> int:
    if not args.folder:
        make_home()
    folder = Path(args.folder).resolve() if args.folder else home() / "mlflow"
    allowed = tuple(filter(None, args.allowed_hosts.split(",")))
    server = AuthenticatedServer(
        folder, args.host, args.port, allowed, args.artifacts, args.default_permission, args.proxy
    )
    try:
        if not args.detach:
            return server.run()
        started = server.detach()
    except ServerError as error:
        raise (TrackingError if "did not start" in str(error) else ConfigError)(str(error)) from error
    say(server.url if started else f"{server.url} (it was up already)")
    return 0

"""`laresa plugin check FILE_OR_MODULE`: tries what a plugin brings. Exit code 1 where something is wrong."""

from __future__ import annotations

import argparse
from typing import Any

from laresa.errors import ConfigError
from sweeps.cli.show import say
from sweeps.cli.studies import load_plugin


def add(verbs: Any) -> None:
    verb = verbs.add_parser("plugin", help="your own terms, data sets, methods, ...: do they do what they must?")
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="try everything that a plugin brings, a line a check")
    check.add_argument("plugin", metavar="FILE_OR_MODULE")
    check.set_defaults(handler=_check)


def _check(args: argparse.Namespace) -> int:
    from laresa.plugin_check import check_plugin

    try:
        plugin = load_plugin(args.plugin)
    except ConfigError as error:  # it is the file that is wrong, not how the command is used
        say(error)
        return 1
    failed = 0
    for finding in check_plugin(plugin):
        say(finding, flush=True)
        failed += bool(finding.wrong)
    return 1 if failed else 0

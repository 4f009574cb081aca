"""The `laresa` command. Exit code 0: done; 1: work failed; 2: bad use; 3: a budget ended it; 130: the user did.

Each verb is a file: `add(verbs)` with its options, and what it does. They import what they need when they do it, so
that `--help` and a query start at once.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

from laresa.errors import printable
from sweeps.cli import best, data, fields, plan, plugin, report, rerun, run, server, status, submit, ui
from sweeps.cli.errors import DEBUG, told
from sweeps.cli.studies import Parser, preload
from sweeps.service.driver.interrupt import hearing, interrupted

STUDIES_VERBS = (run, plan)
VERBS = (status, best, report, data, fields, plugin, server, rerun, submit, ui)


class Printable(logging.Formatter):
    """Of warnings, which name files and classes."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(Printable("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        with hearing(interrupted):
            args = build_parser(words).parse_args(words)
            return int(args.handler(args) or 0)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("laresa: stopped; what was measured is kept, the same command continues", file=sys.stderr)
        return run.STOPPED
    except Exception as error:  # the one place where everything is caught
        message, code = told(error)
        shown = traceback.format_exc() if DEBUG in words else ""
        print(printable(f"{shown}laresa: {message}"), file=sys.stderr)
        return code


def build_parser(words: Sequence[str] = ()) -> Parser:
    """Every verb with its options; `handler` is what `main` calls.

    words: the command line, whose plugins are loaded and whose study, if it is a file or module, has a parser.
    """
    given = preload(words)
    parser = Parser(prog="laresa", description="Sweeps for classifiers trained with label semantics.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb in STUDIES_VERBS:
        verb.add(verbs, given)
    for verb in VERBS:
        verb.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The sweep service. From here, the query: what was the best, what was tried. Only MLflow is touched, never Ray."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from sweeps.service.tracking import records
from sweeps.service.tracking.best import best, best_n, pareto
from sweeps.service.tracking.records import TrialRecord
from sweeps.service.tracking.sweep import Sweep

__all__ = ["TrialRecord", "best", "best_n", "main", "pareto", "trials"]


def main(study: str) -> NoReturn:
    """`laresa run STUDY` with the process's own arguments: what a study file ends with, `sweeps.main(__file__)`.

    The file is loaded once more as a plugin, and only that one counts: not the script that Python calls __main__.
    """
    from sweeps.cli.main import main as laresa

    sys.exit(laresa(["run", study, *sys.argv[1:]]))


def trials(sweep: str, *, as_frame: bool = False, tracking_uri: str | None = None, **options: Any) -> Any:
    """Every trial of a sweep: a list of TrialRecord, or with as_frame a pandas frame, one row a trial.

    options: where, with_history (see Sweep.trials). ConfigError: no such sweep; unknown field in `where`.
    """
    found = Sweep.open(sweep, tracking_uri, files=options.get("with_history", False)).trials(**options)
    return records.as_frame(found) if as_frame else found

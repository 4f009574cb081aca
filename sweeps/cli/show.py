"""How names and records are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from laresa.errors import printable

if TYPE_CHECKING:
    from sweeps.service.tracking.records import TrialRecord


def say(text: object, **options: Any) -> None:
    """`print`, of what may hold names that others chose."""
    print(printable(str(text)), **options)


def add_json(verb: Any, what: str = "records") -> None:
    verb.add_argument("--json", action="store_true", help=f"print a list of {what} as JSON")


def show_json(rows: Sequence[object]) -> None:
    print(json.dumps(rows, indent=1))


def brief(record: TrialRecord) -> dict[str, Any]:
    """A record without its measurements by epoch, which nobody fetched."""
    return {name: value for name, value in record.to_dict().items() if name != "history"}

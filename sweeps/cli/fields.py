"""`laresa fields`: every field that can be set, with what is loaded now; also what --help of a study ends with."""

from __future__ import annotations

import argparse
import json
from typing import Any

from laresa.fields import Field, plain
from sweeps.cli.studies import add_plugin_option

COLUMNS = ("field", "type", "default", "search range", "meaning")


def add(verbs: Any) -> None:
    verb = verbs.add_parser("fields", help="every field of a configuration: type, default, range, meaning")
    verb.add_argument("--json", action="store_true", help="print a list of records as JSON")
    add_plugin_option(verb)
    verb.set_defaults(handler=_fields)


def _fields(args: argparse.Namespace) -> int:
    print(json.dumps(records(), indent=1) if args.json else as_markdown())
    return 0


def records() -> list[dict[str, Any]]:
    """One record a field: name, type, default, range ([low, high, log] or None), kind, doc."""
    return [_record(field) for field in _known()]


def as_markdown() -> str:
    """A table, as README.md has it."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    rows += [
        (f"`{field.name}`", _escaped(field.type_name), _default(field), _range(field), field.doc) for field in _known()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def as_text() -> str:
    """A line a field, for a terminal."""
    lines = []
    for field in _known():
        default, where = _default(field), _range(field)
        details = ", ".join(
            filter(None, [field.type_name, default and f"default {default}", where and f"search {where}"])
        )
        lines.append(f"  {field.name:24s} {field.doc}{'  ' if field.doc else ''}[{details}]")
    return "\n".join(lines)


def _known() -> list[Field]:
    from laresa.config import all_fields

    return list(all_fields().values())


def _record(field: Field) -> dict[str, Any]:
    where = field.range and [field.range.low, field.range.high, field.range.log]
    shown = {"name": field.name, "type": field.type_name, "default": plain(field.default), "range": where}
    return {**shown, "kind": field.kind, "doc": field.doc}


def _default(field: Field) -> str:
    if field.default is None:
        return "one a term" if field.kind == "per_term" else ""
    return json.dumps(plain(field.default)).strip('"')


def _range(field: Field) -> str:
    if field.range is None:
        return ""
    return f"{field.range.low:g}:{field.range.high:g}{':log' if field.range.log else ''}"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")

"""One self-contained page: no request leaves it, no script runs in it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from reports.formats import Table
from reports.tables import Context
from sweeps.service.records import TrialRecord


@dataclass(frozen=True)
class Page:
    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[object, ...]
    records: Sequence[TrialRecord]
    context: Context
    tracking_url: str | None


def to_html(page: Page) -> str:
    e = html.escape
    body = [f"<h1>{e(page.title)}</h1>", *(f"<p>{e(s)}</p>" for s in page.summary)]
    for table in page.tables:
        body.append(f"<h2>{e(table.caption)}</h2><table><tr>")
        body += [f"<th>{e(c.title)}</th>" for c in table.columns]
        body.append("</tr>")
        for block in table.blocks:
            for row in block.rows:
                body.append("<tr>" + "".join(f"<td>{e(c.text)}</td>" for c in row) + "</tr>")
        body.append("</table>" + "".join(f"<p><small>{e(n)}</small></p>" for n in table.notes))
    return "<!doctype html><meta charset=utf-8><title>" + e(page.title) + "</title>" + "".join(body)

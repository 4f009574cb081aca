"""The one entry point: records in, a folder of tables, figures and one page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reports import comparisons, formats, tables
from reports.formats import Table
from reports.html import Page, to_html
from reports.select import BEST_VALIDATION, SelectionRule, budget, to_blocks
from reports.summary import summarise
from sweeps.service.records import TrialRecord

Latents = Callable[[TrialRecord], Mapping[str, np.ndarray] | None]
RESAMPLING_SEED = 0  # of bootstrap and permutation: the same records give the same report


@dataclass(frozen=True)
class Report:
    """Where everything lies. summary: the sentences at the top of the page, as plain text."""

    html: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    summary: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.html, *self.tables, *self.figures)


def build_report(
    records: Sequence[TrialRecord],
    out: Path,
    *,
    latents: Latents,
    title: str,
    tracking_url: str | None = None,
    plan: Mapping[str, tuple[float, float]] | None = None,
    rule: SelectionRule = BEST_VALIDATION,
) -> Report:
    """Write report.html, tables/*.{md,tex,csv} and figures/*.{svg,png} under `out`, replacing what has the same name.

    latents: gives a trial's test latents (the arrays of latents.npz) or None; asked only for the panels drawn.
    plan: name -> (planned, actual), for a table of its own. Raises DataError where `records` is empty.
    """
    blocks = to_blocks(records, rule)
    rng = np.random.default_rng(RESAMPLING_SEED)
    context = tables.Context(blocks, rule, budget(records))
    against_ce = comparisons.against_baseline(blocks, rng)
    variants = comparisons.variants(blocks, rng)
    made = _tables(context, against_ce, variants, plan)
    summary = summarise(blocks, against_ce, variants)
    written = _write_tables(made, out / "tables")
    page = Page(title, summary, made, (), records, context, tracking_url)
    html = out / "report.html"
    html.write_text(to_html(page), encoding="utf-8")
    return Report(html, written, (), summary)


def _tables(
    context: tables.Context,
    against_ce: Sequence[comparisons.Comparison],
    variants: Sequence[comparisons.Comparison],
    plan: Mapping[str, tuple[float, float]] | None,
) -> tuple[Table, ...]:
    """Every table that has something to say, in reading order."""
    made = [
        tables.top1_table(context),
        comparisons.baseline_table(context, against_ce),
        comparisons.variants_table(context, variants),
        comparisons.pooled_table(context, against_ce),
        tables.latent_table(context),
        tables.correlation_table(context),
        tables.peak_table(context),
        tables.published_table(context),
        tables.plan_table(context, plan) if plan else None,
        tables.failures_table(context),
    ]
    return tuple(table for table in made if table is not None)


def _write_tables(made: Sequence[Table], folder: Path) -> tuple[Path, ...]:
    """Each table three times, and `all.tex`, a document that holds them all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in made:
        for suffix, write in (
            (".md", formats.to_markdown),
            (".tex", formats.to_latex),
            (".csv", formats.to_csv),
        ):
            path = folder / f"{table.name}{suffix}"
            path.write_text(write(table), encoding="utf-8")
            paths.append(path)
    document = folder / "all.tex"
    document.write_text(formats.to_document([table.name for table in made]), encoding="utf-8")
    return (*paths, document)

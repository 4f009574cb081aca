"""The one entry point: records in, a folder of tables, figures and one page out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reports import (
    appendix,
    beside,
    candidates,
    comparison_tables,
    comparisons,
    diagnosis,
    effects,
    failures,
    figures,
    formats,
    matrix,
    pairs,
    paper_figures,
    paper_tables,
    tables,
    trade_off,
)
from reports.arms import summaries
from reports.claims import Design
from reports.comparisons import Comparison
from reports.degradation import degradation_table
from reports.development import Snapshots, development_figure, no_snapshots
from reports.figures import Saved
from reports.forest import forest_rows
from reports.formats import Table
from reports.html import Page, SearchPart, to_html
from reports.latent_map import Latents, latent_figure
from reports.mistakes import mistakes_tables
from reports.robustness import robustness_figure, robustness_table
from reports.select import BEST_VALIDATION, Block, SelectionRule, budget, to_blocks
from reports.summary import code_note, summarise
from sweeps.service.tracking.records import TrialRecord

if TYPE_CHECKING:
    from reports.importance import Space

RESAMPLING_SEED = 0  # of bootstrap and permutation: the same records give the same report


@dataclass(frozen=True)
class Report:
    """Where everything lies. summary: the sentences at the top of the page, as plain text.

    arms: label and numbers of each arm, as `arms.summaries`.
    """

    html: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    summary: tuple[str, ...]
    arms: tuple[tuple[str, dict[str, float]], ...] = ()

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
    arms: Sequence[str] = (),
    latent_arms: Sequence[str] | None = None,
    space: Space | None = None,
    objectives: Sequence[str] = ("val/top1",),
    design: Design | None = None,
    marks: Sequence[str] = (),
    snapshots: Snapshots = no_snapshots,
) -> Report:
    """Write report.html, tables/*.{md,tex,csv}, figures/*.{svg,png} and figures/dark/*.svg under `out`.

    What is there already under the same name is replaced.

    latents: gives a trial's test latents (the arrays of latents.npz) or None; asked only for the panels drawn.
    plan: name -> (planned, actual), for a table of its own. arms: the study's, in its order; the first that is a base
    term alone is the baseline. latent_arms: the arms with a UMAP panel; None for a choice of the figure's own.
    space: what the search trials were drawn from, for their pictures; objectives: what they were searched by.
    design: what was fixed in advance, the primary contrasts above all. marks: sentences on what weakens the evidence.
    snapshots: gives a trial's validation latents by epoch, {} for none; asked of the baseline and the full objective.
    Arms are compared over evidence trials only.
    Raises DataError where `records` is empty.
    """
    evidence, searched = candidates.split(records)
    blocks = () if searched and not evidence else to_blocks(evidence, rule, arms)
    rng = np.random.default_rng(RESAMPLING_SEED)
    context = tables.Context(blocks, rule, budget(evidence), candidates.describe(searched))
    found = Found.of(blocks, design or Design(), rng)
    made = (*_tables(context, found, plan, rng), *_appendix(context, searched, space))
    drawn = _draw(blocks, latents, latent_arms, snapshots, out / "figures")
    part = _search_part(searched, space, objectives, rule, out / "figures") if searched else None
    summary = (*summarise(blocks, found.primary, found.against_base, found.variants), *candidates.sentences(searched))
    summary = summary if blocks else (*summary, candidates.NO_EVIDENCE)
    summary = (*summary, *comparisons.not_compared(blocks, found.design), *code_note(records), *marks)
    searched_tables, all_figures = (part.tables, (*drawn, *part.figures)) if part else ((), drawn)
    # What leads is written first: the arms, or without them the search.
    written = _write_tables((*made, *searched_tables) if blocks else (*searched_tables, *made), out / "tables")
    html = out / "report.html"
    forest = forest_rows(found.primary, found.against_base, tracking_url)
    page = Page(title, summary, made, drawn, records, context, tracking_url, part, forest)
    html.write_text(to_html(page), encoding="utf-8")
    return Report(
        html,
        written,
        tuple(path for saved in all_figures for path in saved.files),
        summary,
        tuple(summaries(blocks)),
    )


def _search_part(
    searched: Sequence[TrialRecord],
    space: Space | None,
    objectives: Sequence[str],
    rule: SelectionRule,
    folder: Path,
) -> SearchPart:
    """What the searches tried: tables, Optuna's pictures where the space is known, and why some are missing."""
    from reports import importance, search  # only here is Optuna needed

    found = candidates.by_search(searched)
    asked = [importance.scopes(name, trials, space) for name, trials in found.items()] if space else []
    made = (
        candidates.pareto_table(searched, objectives),
        candidates.best_table(searched, rule),
        importance.table([scope for scopes in asked for scope in scopes], named=len(found) > 1),
        candidates.states_table(searched),
    )
    drawn = search.drawings(searched, space, objectives) if space else []
    text = (candidates.sentence(candidates.describe(searched)), *search.too_few(searched, space))
    return SearchPart(
        text, tuple(table for table in made if table), tuple(figures.save(drawing, folder) for drawing in drawn)
    )


@dataclass(frozen=True)
class Found:
    """All that is compared."""

    design: Design
    primary: Sequence[Comparison]
    against_base: Sequence[Comparison]
    variants: Sequence[Comparison]
    effects: Sequence[effects.Effect]

    @classmethod
    def of(cls, blocks: Sequence[Block], design: Design, rng: np.random.Generator) -> Found:
        primary = comparisons.primary(blocks, design, rng)
        against_base = comparisons.against_baseline(blocks, design, rng, primary)
        variants = comparisons.variants(blocks, design, rng, primary)
        return cls(design, primary, against_base, variants, effects.effects(blocks, design, rng))


def _tables(
    context: tables.Context,
    found: Found,
    plan: Mapping[str, tuple[float, float]] | None,
    rng: np.random.Generator,
) -> tuple[Table, ...]:
    """Every table that has something to say, in reading order."""
    made = [
        tables.top1_table(context) if context.blocks else None,
        comparison_tables.primary_table(context, found.primary),
        comparison_tables.baseline_table(context, found.against_base),
        comparison_tables.variants_table(context, found.variants),
        effects.effects_table(context, found.effects),
        pairs.grid_table(context),
        pairs.pairs_table(context, found.against_base),
        comparison_tables.pooled_table(context, found.against_base),
        matrix.matrix_table(context, rng),
        *mistakes_tables(context),
        degradation_table(context),
        robustness_table(context),
        tables.latent_table(context) if context.blocks else None,
        tables.correlation_table(context) if context.blocks else None,
        tables.peak_table(context) if context.blocks else None,
        diagnosis.order_table(context),
        *paper_tables.made(context, found.against_base),
        beside.plan_table(context, plan) if plan else None,
        failures.table(context) if context.blocks else None,
    ]
    return tuple(table for table in made if table is not None)


def _appendix(context: tables.Context, searched: Sequence[TrialRecord], space: Space | None) -> tuple[Table, ...]:
    """The last table, of what reviewers ask for; none without arms."""
    return (appendix.appendix_table(context, searched, space),) if context.blocks else ()


def _draw(
    blocks: Sequence[Block],
    latents: Latents,
    latent_arms: Sequence[str] | None,
    snapshots: Snapshots,
    folder: Path,
) -> tuple[Saved, ...]:
    """Every figure that has something to show; with several blocks each has its own, numbered and named after it."""
    saved = []
    weights, learned = figures.weight_looks(blocks), figures.learned_looks(blocks)
    gradients = figures.gradient_looks(blocks)
    grids = (paper_figures.weights_grid(blocks, weights), *paper_figures.learned_grids(blocks, learned))
    saved += [figures.save(drawing, folder) for drawing in grids if drawing]
    for number, block in enumerate(blocks, start=1):
        drawings = (
            figures.top1_figure(block),
            trade_off.varied_figure(block),
            trade_off.severity_figure(block),
            robustness_figure(block),
            figures.weights_figure(block, weights),
            *(figures.learned_figure(block, tensor, looks) for tensor, looks in learned.items()),
            diagnosis.rank_figure(block),
            diagnosis.gradients_figure(block, gradients),
            latent_figure(block, latents, latent_arms),
            development_figure(block, snapshots),
            figures.validation_figure(block),
        )
        for drawing in filter(None, drawings):
            if len(blocks) > 1:
                drawing = replace(drawing, name=f"{drawing.name}-{number}", title=f"{drawing.title} ({block.title})")
            saved.append(figures.save(drawing, folder))
    return tuple(saved)


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

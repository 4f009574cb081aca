"""What reviewers ask of every arm: where its settings were looked for, what was chosen, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laresa.config import write_text
from reports.candidates import by_search
from reports.formats import MISSING, Cell, Column, Table
from reports.select import Arm, budget
from reports.tables import ARM, Context, Row, block_rows, label_cell
from sweeps.service.tracking.records import TrialRecord

REPLICATE = ("seed", "fold")  # what tells replicates apart, and no setting


def appendix_table(
    context: Context, searched: Iterable[TrialRecord] = (), space: Mapping[str, object] | None = None
) -> Table:
    """One row an arm: its own settings, how they came about, trials, epochs, hours; the rest in the notes.

    space: field -> where the searches looked, of those whose settings were searched.
    """
    common, searches = _common(context), by_search(searched)
    columns = (
        ARM,
        Column("own settings", ("settings",), "wrap"),
        Column("chosen by", ("chosen",), "l"),
        Column("search trials", ("search_trials",)),
        Column("search epochs", ("search_epochs",)),
        Column("trials", ("trials",)),
        Column("epochs", ("epochs",)),
        Column("hours", ("hours",)),
    )
    notes = (
        "Own settings: fields in which arms differ that have them. Chosen by: given, or the arm's search, from "
        "trials of the state in brackets. Hours: of training, the search's included, summed over replicates.",
        *(
            [f"The same in all arms that have it: {', '.join(f'{n} {write_text(v)}' for n, v in common.items())}."]
            if common
            else []
        ),
        *([f"Searched, where an arm has them: {', '.join(f'{n} in {d}' for n, d in space.items())}."] if space else []),
    )
    blocks = tuple(
        block_rows(b, [_row(arm, common, searches.get(arm.label, [])) for arm in b.arms]) for b in context.blocks
    )
    return Table("appendix", "Settings and cost of every arm", columns, blocks, context.notes(*notes))


def _settings(arm: Arm) -> dict[str, Any]:
    """Fields that all trials of the arm have in common."""
    configs = [trial.config.to_dict() for trial in arm.trials]
    shared = {name: value for name, value in configs[0].items() if all(c.get(name) == value for c in configs[1:])}
    return {name: value for name, value in shared.items() if name not in REPLICATE}


def _common(context: Context) -> dict[str, Any]:
    """Fields that have one value in all arms that have them at all."""
    own = [_settings(arm) for block in context.blocks for arm in block.arms]
    values: dict[str, list[Any]] = {}
    for settings in own:
        for name, value in settings.items():
            values.setdefault(name, []).append(value)
    return {name: found[0] for name, found in values.items() if all(value == found[0] for value in found)}


def _row(arm: Arm, common: dict[str, Any], searched: Sequence[TrialRecord]) -> Row:
    own = {name: value for name, value in _settings(arm).items() if name not in common}
    text = ", ".join(f"{name} {write_text(value)}" for name, value in own.items()) or MISSING
    chosen = ", ".join(f"search ({how})" for how in sorted(arm.choices)) or "given"
    tried = budget(searched)
    spent, hours = budget(arm.trials), (budget(arm.trials).seconds + tried.seconds) / 3600
    return (
        label_cell(arm),
        Cell(text, (json.dumps(own, default=str),)),
        Cell(chosen, (chosen,)),
        Cell(f"{tried.trials:,}", (tried.trials,)),
        Cell(f"{tried.epochs:,}", (tried.epochs,)),
        Cell(f"{spent.trials:,}", (spent.trials,)),
        Cell(f"{spent.epochs:,}", (spent.epochs,)),
        Cell(f"{hours:.2f}", (hours,)),
    )

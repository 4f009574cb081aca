"""What became of every trial: counts by state, and what the failed ones said."""

from __future__ import annotations

from collections import Counter

from reports.formats import MISSING, Cell, Column, Table
from reports.select import Arm, usable
from reports.tables import ARM, Context, Row, block_rows, label_cell
from sweeps.service.tracking.records import STATES, TrialRecord

COLUMNS = (
    *(Column(state, (state,)) for state in STATES),
    Column("no test result", ("no_test_result",)),
    Column("first line of the error", ("error",), "wrap"),
)


def table(context: Context) -> Table:
    """Trials by state and arm, with what the failed ones said."""
    columns = (ARM, *COLUMNS)
    notes = ("No test result: finished, but without a finite test top-1; such a trial is not ok.",)
    blocks = tuple(block_rows(block, list(map(row, block.arms))) for block in context.blocks)
    return Table("failures", "What became of every trial", columns, blocks, context.notes(*notes))


def row(arm: Arm) -> Row:
    """The arm, its trials by state, and what the failed ones said."""
    states = Counter(trial.state for trial in arm.trials)
    mute = sum(trial.state == "finished" and not usable(trial) for trial in arm.trials)
    errors = Counter(first_line(trial) for trial in arm.trials if trial.error)
    text = "; ".join(f"{count} × {line}" for line, count in errors.most_common()) or MISSING
    counts = [Cell(str(states[state]), (states[state],)) for state in STATES]
    return (label_cell(arm), *counts, Cell(str(mute), (mute,)), Cell(text, (text if errors else None,)))


def first_line(trial: TrialRecord, limit: int = 160) -> str:
    """The error's first line; of a traceback, which begins with a heading, the last one. Cut at `limit` characters."""
    lines = [line.strip() for line in (trial.error or "").splitlines() if line.strip()]
    if not lines:
        return ""
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"

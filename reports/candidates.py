"""What searches tried, counted and described apart from the evidence. Validation alone ranks; test is only shown."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from laresa.measurement import better
from reports import failures
from reports.formats import MISSING, Cell, Column, Rows, Table
from reports.select import TEST, Arm, SelectionRule, budget, value
from reports.tables import Row
from sweeps.service.tracking.best import front
from sweeps.service.tracking.records import STATES, TrialRecord

VALIDATION = "best/val/top1"
SHOWN = 10  # configurations of one search; with several searches SHOWN_EACH of each
SHOWN_EACH = 3
NO_EVIDENCE = "No arms are compared: that takes evidence, a chosen configuration trained on every replicate."


def split(records: Iterable[TrialRecord]) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """(evidence, search trials). A trial without a role is evidence: sweeps without a search have no other.

    What a search chose on a replicate of the comparison is both: it is not trained twice, and its search found it.
    """
    trials = list(records)
    evidence = [trial for trial in trials if trial.provenance.get("role") != "search"]
    return evidence, [trial for trial in trials if is_searched(trial)]


def is_searched(trial: TrialRecord) -> bool:
    """Whether a search asked for the trial."""
    return trial.provenance.get("role") == "search" or trial.provenance.get("searched") == "true"


def by_search(searched: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """The trials of each search by its name (their arm), both in the order in which they came."""
    found: dict[str, list[TrialRecord]] = {}
    for trial in searched:
        found.setdefault(trial.arm, []).append(trial)
    return found


def describe(searched: Sequence[TrialRecord]) -> str:
    """ "search: 60 trials, 41 finished, 15 pruned, 4 failed; selected on validation only"; "" without any."""
    if not searched:
        return ""
    states = Counter(trial.state for trial in searched)
    count = len(by_search(searched))
    parts = [f"{len(searched):,} trials", *(f"{states[state]:,} {state}" for state in STATES if states[state])]
    return f"{'search' if count == 1 else f'{count} searches'}: {', '.join(parts)}; selected on validation only"


def ranked(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The finished trials, best validation first; of equals the smallest signature."""
    scored = [trial for trial in trials if is_scored(trial)]
    return sorted(scored, key=lambda trial: (-value(trial, VALIDATION), trial.signature))


def is_scored(trial: TrialRecord) -> bool:
    """Finished with a validation result. A pruned trial's is of fewer epochs and is compared with none."""
    return trial.state == "finished" and not math.isnan(value(trial, VALIDATION))


# ---------------------------------------------------------------------------------------------------- words
def varied(trials: Sequence[TrialRecord]) -> list[str]:
    """The fields with several values: subset first, the components' (dotted) last, else by name.

    Where a field is missing (None in sweeps of 0.1) it has no effect, and that is no value.
    """
    seen: dict[str, set[str]] = {}
    for trial in trials:
        for name, setting in trial.config.to_dict().items():
            seen.setdefault(name, set()).update([] if setting is None else [json.dumps(setting)])
    several = [name for name, settings in seen.items() if len(settings) > 1]
    return sorted(several, key=lambda name: (name != "subset", "." in name, name))


def configuration(trial: TrialRecord, names: Sequence[str]) -> str:
    """ "lr 0.0012, triplet.margin 0.31": the named fields that have an effect in this trial."""
    fields = trial.config.to_dict()
    return ", ".join(f"{name} {_short(fields[name])}" for name in names if fields.get(name) is not None) or MISSING


def _short(setting: Any) -> str:
    if isinstance(setting, list | tuple):
        return f"({', '.join(map(_short, setting))})"
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)


def sentences(searched: Sequence[TrialRecord]) -> list[str]:
    """What was searched and, of a single search, what it found: plain text for the summary."""
    if not searched:
        return []
    searches = by_search(searched)
    bests = [_best(name, trials) for name, trials in searches.items()]
    return [sentence(describe(searched)), *(bests if len(bests) == 1 else [])]


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def _best(name: str, trials: Sequence[TrialRecord]) -> str:
    first = next(iter(ranked(trials)), None)
    if first is None:
        return f"{name}: no trial has finished with a validation result yet."
    said = f"with {configuration(first, names)} " if (names := varied(trials)) else ""
    return (
        f"{name}: the best by validation has top-1 {100 * value(first, VALIDATION):.1f} % there, "
        f"{said}(trial {first.signature}); as the best of "
        f"{len(ranked(trials))} it flatters itself."
    )


# ---------------------------------------------------------------------------------------------------- tables
def best_table(searched: Sequence[TrialRecord], rule: SelectionRule) -> Table | None:
    """The best configurations of each search by validation; None where none has finished."""
    searches = by_search(searched)
    shown = SHOWN if len(searches) == 1 else SHOWN_EACH
    blocks = []
    for name, trials in searches.items():
        names = varied(trials)
        rows = [_best_row(rank, trial, names) for rank, trial in enumerate(ranked(trials)[:shown], start=1)]
        blocks += [Rows(name, (name,), tuple(rows))] if rows else []
    columns = (
        Column("rank", ("rank",)),
        Column("trial", ("signature",), "l"),
        Column("configuration", ("configuration",), "wrap"),
        Column("validation top-1 [%]", ("validation_top1",)),
        Column("test top-1 [%], not used", ("test_top1",)),
    )
    spent = budget(searched)
    notes = (
        f"At most {shown} of each search; n = 1: each is one trial on one seed and fold, so no deviation is known.",
        "Ranked by validation top-1; test top-1 is shown where it was measured and chose nothing.",
        "Finished trials only: a pruned one was measured after fewer epochs. "
        "Configuration: the fields that differ within the search.",
        f"Selection ({rule.name}): each trial counts at its epoch with the best validation top-1.",
        f"Budget: {spent.text}. {sentence(describe(searched))}",
    )
    title = "Best configurations by validation"
    return Table("search", title, columns, tuple(blocks), notes, block_keys=("search",)) if blocks else None


def pareto_table(searched: Sequence[TrialRecord], objectives: Sequence[str]) -> Table | None:
    """The Pareto front of each search; None where none has finished or there is one objective only.

    Severity stands beside top-1, whatever was searched by: it falls when mild mistakes are added.
    """
    blocks = []
    beside = (metric.replace("mistake_severity", "top1") for metric in objectives)  # others stay themselves
    shown = tuple(dict.fromkeys((*objectives, *beside)))
    for name, trials in by_search(searched).items() if len(objectives) > 1 else ():
        scored = [t for t in ranked(trials) if not any(math.isnan(value(t, f"best/{m}")) for m in objectives)]
        names = varied(trials)
        rows = [_pareto_row(trial, names, shown) for trial in front(scored, objectives)]
        blocks += [Rows(name, (name,), tuple(rows))] if rows else []
    columns = (
        Column("trial", ("signature",), "l"),
        Column("configuration", ("configuration",), "wrap"),
        *(Column(f"{m}{' (low is good)' if better(m) == 'min' else ''}", (m.replace("/", "_"),)) for m in shown),
    )
    notes = (
        "Finished trials than which no other is better in one column and as good in the others, "
        f"of {len(searched):,} tried; n = 1: each is one trial on one seed and fold.",
        "Measured on the validation split, at the epoch with its best top-1. The test split chose nothing.",
    )
    title = f"Pareto front of {' and '.join(objectives)}"
    return Table("pareto", title, columns, tuple(blocks), notes, block_keys=("search",)) if blocks else None


def _pareto_row(trial: TrialRecord, names: Sequence[str], objectives: Sequence[str]) -> Row:
    text, numbers = configuration(trial, names), [value(trial, f"best/{metric}") for metric in objectives]
    known = (Cell(trial.signature, (trial.signature,)), Cell(text, (text,)))
    return (*known, *(Cell(f"{number:.3f}", (number,)) for number in numbers))


def _best_row(rank: int, trial: TrialRecord, names: Sequence[str]) -> Row:
    text = configuration(trial, names)
    return (
        Cell(str(rank), (rank,)),
        Cell(trial.signature, (trial.signature,)),
        Cell(text, (text,)),
        *(_percent(100 * value(trial, metric)) for metric in (VALIDATION, TEST)),
    )


def _percent(number: float) -> Cell:
    return Cell(MISSING if math.isnan(number) else f"{number:.1f}", (number,))


def states_table(searched: Sequence[TrialRecord]) -> Table:
    """What became of every search trial, a row a search."""
    rows = [failures.row(Arm(name, tuple(trials), {})) for name, trials in by_search(searched).items()]
    columns = (Column("search", ("search",), "l"), *failures.COLUMNS)
    notes = (
        "Pruned: stopped early by the scheduler, on validation. No test result: finished, but without a finite "
        "test top-1.",
        sentence(describe(searched)),
    )
    blocks = (Rows("all searches", (), tuple(rows)),)
    return Table("search_trials", "What became of every search trial", columns, blocks, notes, block_keys=())

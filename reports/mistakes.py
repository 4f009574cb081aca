"""How far from the truth predictions lie in the classes' tree: never severity without top-1 beside it."""

from __future__ import annotations

from laresa.measurement import CRM
from reports.formats import Table
from reports.select import TEST
from reports.tables import Context, Quantity, quantities_table

LEVEL = f"{TEST}_level"  # test/top1_level1, ...: as many as the tree has
NOTES = (
    "Severity: mean height of the lowest common ancestor over the wrong predictions only; it also falls when mild "
    "mistakes are ADDED, so read it beside top-1.",
    "Distance @k: the same height over the k likeliest classes of every sample, 0 for the right one.",
    "Siblings: predictions with the true class's parent. Level k: those under the node k steps up from the true class.",
)
BY_CRM = (
    "The same trials: each predicts the class of least expected height (CRM, Karthik et al., ICLR 2021), which needs "
    "no training; what a loss gains here and in the plain table alike, it gains by itself.",
)


def mistakes_tables(context: Context) -> tuple[Table, ...]:
    """Of the plain decision and of CRM's, with the same columns; none where no trial has a tree."""
    found = {name for block in context.blocks for trial in block.trials for name in trial.metrics}
    levels = sorted(int(level) for name in found if (level := name.removeprefix(LEVEL)).isdecimal())
    tables = [
        _table(context, "mistakes", "Mistakes in the tree on test", "", levels, NOTES),
        _table(context, "mistakes-crm", "Mistakes in the tree on test, decided by CRM", CRM, levels, (*BY_CRM, *NOTES)),
    ]
    return tuple(table for table in tables if table is not None)


def _table(
    context: Context, name: str, title: str, end: str, levels: list[int], notes: tuple[str, ...]
) -> Table | None:
    severity = f"test/mistake_severity{end}"
    if not any(arm.values(severity) for block in context.blocks for arm in block.arms):
        return None
    shown = (
        Quantity(f"{TEST}{end}", "top-1 [%]", "top1", 100, 1),
        Quantity(f"test/top5{end}", "top-5 [%]", "top5", 100, 1, ranked=False),
        Quantity(severity, "severity", "severity", digits=2, ranked=False),
        Quantity(f"test/hierarchical_distance{end}", "distance @1", "distance_at1", digits=2, ranked=False),
        Quantity(f"test/hierarchical_distance_at5{end}", "@5", "distance_at5", digits=2, ranked=False),
        Quantity(f"test/hierarchical_distance_at20{end}", "@20", "distance_at20", digits=2, ranked=False),
        Quantity(f"test/sibling_accuracy{end}", "siblings [%]", "siblings", 100, 1, ranked=False),
        *(Quantity(f"{LEVEL}{k}{end}", f"level {k} [%]", f"level{k}", 100, 1, ranked=False) for k in levels),
    )
    return quantities_table(context, name, title, shown, notes)

"""What figures for a paper have in common: widths of its columns, small type, and a legend that fits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from reports.figures import STYLE

COLUMN, TWO_COLUMNS = 3.3, 6.9  # inches
FONT = 7  # points: nothing in these figures is smaller
PAPER_STYLE: dict[Any, Any] = STYLE | {
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "legend.fontsize": FONT,
}
MOST_LETTERS = 26  # of a name in a legend
MOST_COLUMNS = 8
MARGIN = 0.06  # inches at the sides of a legend


def abbreviated(names: Sequence[str], most: int = MOST_LETTERS) -> list[str]:
    """Long names with their middle left out; whole where two would look the same."""
    head = (most - 1) * 2 // 3
    short = [n if len(n) <= most else f"{n[:head].rstrip()}…{n[head + 1 - most :].lstrip()}" for n in names]
    count = Counter(short)
    return [cut if count[cut] == 1 else name for cut, name in zip(short, names, strict=True)]


def fitted_legend(figure: Figure, handles: Sequence[Line2D], names: Sequence[str]) -> float:
    """One legend under all panels with as many columns as fit between the figure's edges; its height in inches."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    room, columns = figure.get_figwidth() - 2 * MARGIN, min(len(names), MOST_COLUMNS)
    while True:
        legend = _legend(figure, handles, names, columns)
        box = legend.get_window_extent(renderer)
        if columns == 1 or box.width / figure.dpi <= room:
            break
        legend.remove()
        columns -= 1
    rows = math.ceil(len(names) / columns)
    if (even := math.ceil(len(names) / rows)) < columns:  # as many rows, and none of the columns short or empty
        legend.remove()
        legend = _legend(figure, handles, names, even)
    return float(legend.get_window_extent(renderer).height / figure.dpi)


def _legend(figure: Figure, handles: Sequence[Line2D], names: Sequence[str], columns: int) -> Legend:
    return figure.legend(
        handles,
        abbreviated(names),
        loc="outside lower center",
        ncols=columns,
        fontsize=FONT,
        handlelength=1.4,
        handletextpad=0.4,
        columnspacing=1.2,
        labelspacing=0.3,
        borderpad=0.2,
        borderaxespad=0.2,
    )

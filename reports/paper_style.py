"""What figures for a paper have in common: widths of its columns, small type, and a legend that fits."""

from __future__ import annotations

import math
import re
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
    "axes.titlepad": 3,
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
MANY, LETTERS, FEWER_LETTERS = 20, 30, 20  # of a name in a legend; fewer where there are more names than MANY
MOST_COLUMNS = 8
MARGIN = 0.06  # inches at the sides of a legend


def abbreviated(names: Sequence[str]) -> list[str]:
    """Long names with their middle left out, at a space if possible; whole where two would look the same."""
    most = LETTERS if len(names) <= MANY else FEWER_LETTERS
    ways = [[cut(name, most) for name in names] for cut in (_by_words, _by_letters)] + [list(names)]
    counts = [Counter(way) for way in ways]
    found = []
    for several in zip(*ways, strict=True):
        own = (text for text, count in zip(several, counts, strict=True) if count[text] == 1)
        found.append(next(own, several[-1]))
    return found


def _by_words(name: str, most: int) -> str:
    words = name.split()
    cuts = (f"{' '.join(words[:kept])} … {words[-1]}" for kept in range(len(words) - 2, 0, -1))
    return next((text for text in (name, *cuts) if len(text) <= most), _by_letters(name, most))


def _by_letters(name: str, most: int) -> str:
    head = (most - 1) * 2 // 3
    return name if len(name) <= most else f"{name[:head]}…{name[head + 1 - most :]}"


def broken(name: str, after: str, most: int = 15) -> str:
    """At most so many letters a line where it can be helped, broken after one of these letters."""
    lines = [""]
    for part in re.findall(f"[^{after}]+[{after}]*|[{after}]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


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

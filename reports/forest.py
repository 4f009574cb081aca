"""The first picture of the page: differences with their intervals, and each pair as a dot that opens its trial."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from reports.comparisons import Comparison
from reports.formats import minus, signed
from reports.select import TEST, Arm, Replicate
from reports.templates import render

MOST_ROWS = 8

# Across: percent of the width, so that it fits any screen while the letters keep their size. Down: pixels.
LEFT, RIGHT = 2.0, 52.0
LETTERS = 40  # of a label's line: what 360 pixels hold
HEADING, LINE, BAR, DOTS, ROW = 30, 20, 10, 25, 42
JITTER = (0, -4, 4, -2, 2)


@dataclass(frozen=True)
class Dot:
    """One pair's difference. label: what is said when pointed at; href: where its trial opens."""

    value: float
    label: str
    href: str | None = None


@dataclass(frozen=True)
class ForestRow:
    """One difference: its mean, interval (nan: none known) and pairs. text: what stands beside it.

    primary: what the study set out to answer; other rows are drawn fainter.
    """

    label: str
    mean: float
    low: float
    high: float
    text: str
    dots: tuple[Dot, ...]
    primary: bool = True


# ---------------------------------------------------------------------------------------------------- which rows
def forest_rows(
    primary: Sequence[Comparison], others: Iterable[Comparison] = (), tracking_url: str | None = None
) -> tuple[ForestRow, ...]:
    """The primary contrasts, then others, in the order of blocks and arms: MOST_ROWS that have a pair."""
    rest = [c for c in others if not c.primary]
    compared = [comparison for comparison in (*primary, *rest) if comparison.n]
    several = len({c.block.title for c in compared}) > 1
    return tuple(_row(c, f" ({c.block.title})" if several else "", tracking_url) for c in compared[:MOST_ROWS])


def run_url(tracking_url: str | None, run_id: str) -> str | None:
    """Where a run opens in MLflow's UI, by the address of its sweep there; None where that is no such address."""
    found = re.match(r"https?://[^#]*#/experiments/[^/?#]+", tracking_url or "")
    return f"{found[0]}/runs/{quote(run_id, safe='')}" if found else None


def _row(comparison: Comparison, where: str, tracking_url: str | None) -> ForestRow:
    c, main = comparison, comparison.main
    arm, other = c.block.arm(c.arm), c.block.arm(c.against)
    dots = tuple(_dots(arm, other.values(TEST), tracking_url)) if arm and other else ()
    # A confidence sequence has no end at first.
    low, high = (end if math.isfinite(end) else math.nan for end in (main.low, main.high))
    text = signed(main.mean, 1) + ("" if math.isnan(low) else f" [{signed(low, 1)}, {signed(high, 1)}]")
    named = c.primary or not c.design.contrasts
    return ForestRow(f"{c.arm} against {c.against}{where}", main.mean, low, high, text, dots, named)


def _dots(arm: Arm, against: Mapping[Replicate, float], tracking_url: str | None) -> Iterator[Dot]:
    for key, number in arm.values(TEST).items():
        if key in against:
            points = 100 * (number - against[key])
            label = f"seed {key[0]}, fold {key[1]}: {signed(points, 1)}"
            yield Dot(points, label, run_url(tracking_url, arm.chosen[key].run_id))


# ---------------------------------------------------------------------------------------------------- drawing
@dataclass(frozen=True)
class _Placed:
    """A row and where it lies: x in percent, y in pixels."""

    row: ForestRow
    lines: tuple[tuple[int, str], ...]
    y: int
    mean: float
    ends: tuple[float, float] | None
    dots: tuple[tuple[float, int, Dot], ...]


class _Scale:
    """Values to percent of the width; zero is always on it."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(0.0, *values), max(0.0, *values)
        margin = 0.04 * (high - low) or 1.0
        self.low, self.high = low - margin, high + margin

    def __call__(self, value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - self.low) / (self.high - self.low), 3)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        # Rounded: what ought to be zero may be a little beside it.
        return [(self(v), minus(f"{round(float(v), 9):+g}")) for v in values if self.low <= v <= self.high]


def forest_svg(rows: Sequence[ForestRow], *, unit: str = "points") -> Markup:
    """An <svg> to stand in a page, in the colours of the text around it; "" without rows."""
    rows = [row for row in rows if math.isfinite(row.mean)]
    if not rows:
        return Markup("")
    numbers = chain.from_iterable((r.mean, r.low, r.high, *(dot.value for dot in r.dots)) for r in rows)
    scale = _Scale([number for number in numbers if math.isfinite(number)])
    placed, bottom = [], HEADING
    for row in rows:
        placed.append(_place(row, bottom, scale))
        bottom += LINE * len(placed[-1].lines) + ROW
    linked = any(dot.href for row in rows for dot in row.dots)
    return render(
        "forest.svg.j2",
        rows=placed,
        ticks=scale.ticks,
        zero=scale(0),
        middle=(LEFT + RIGHT) / 2,
        top=HEADING,
        bottom=bottom,
        unit=unit,
        linked=linked,
    )


def _place(row: ForestRow, top: int, scale: _Scale) -> _Placed:
    wrapped = textwrap.wrap(row.label, LETTERS) or [""]
    lines = tuple((top + LINE * number + 15, line) for number, line in enumerate(wrapped))
    y = top + LINE * len(lines)
    ends = (scale(row.low), scale(row.high)) if math.isfinite(row.low) and math.isfinite(row.high) else None
    dots = tuple(
        (scale(dot.value), y + DOTS + JITTER[number % len(JITTER)], dot)
        for number, dot in enumerate(row.dots)
        if math.isfinite(dot.value)
    )
    return _Placed(row, lines, y + BAR, scale(row.mean), ends, dots)

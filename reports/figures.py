"""Figures of one block: weights over epochs, validation curves, every replicate's test top-1."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports.dark import dark_svg
from reports.select import COLLAPSE_WEIGHT, TEST, Arm, Block, collapse_step

# After Okabe and Ito (2008): colours that stay apart for every common kind of colour blindness.
BLACK, BLUE, SKY, GREEN = "#000000", "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILION, PURPLE, GREY = "#E69F00", "#D55E00", "#CC79A7", "#767676"
Line = Literal["-", "--", ":"]
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#8c6d31", GREY)
LINE_STYLES: tuple[Line, ...] = ("-", "--", ":")  # as often the palette is gone through; what comes then is not drawn
WEIGHT, ENTROPY = "weight/", "weight/entropy"
GRADIENT = "gradient/"  # each term's share of what pulls at the latents
NOT_LEARNED = ("train/", "val/", "test/", "best/", "latent/", "energy/", GRADIENT, WEIGHT)
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "reports",  # same records, same bytes
}
LINES = "Thin lines: replicates; thick: their mean, as long as at least half of them still train."
Curve = tuple[np.ndarray, np.ndarray]  # epochs, values
Look = tuple[str, Line]  # colour, kind of line


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows. name: stem of its files; alt: for those who can't see it."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Saved:
    """dark: the SVG file for dark pages."""

    drawing: Drawing
    svg: Path
    png: Path
    dark: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return self.svg, self.png, self.dark


def save(drawing: Drawing, folder: Path) -> Saved:
    """Write the drawing as SVG, light and dark, and PNG (150 dots per inch)."""
    svg, png = folder / f"{drawing.name}.svg", folder / f"{drawing.name}.png"
    dark = folder / "dark" / svg.name
    dark.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        drawing.figure.savefig(svg, metadata={"Date": None}, dpi=200)  # of the dots that are a picture in it
        drawing.figure.set_layout_engine("none")  # keeps the layout just found, which took half of the time
        drawing.figure.savefig(png, dpi=150)
    dark.write_text(dark_svg(svg.read_text(encoding="utf-8")), encoding="utf-8")
    return Saved(drawing, svg, png, dark)


# ---------------------------------------------------------------------------------------------------- curves
def curves(arm: Arm, metric: str) -> list[Curve]:
    """The metric over the epochs, one curve a replicate; epochs without a finite value are left out."""
    found = []
    for trial in arm.chosen.values():
        points = [(m.epoch, m.metrics.get(metric, math.nan)) for m in trial.history]
        finite = [(epoch, number) for epoch, number in points if math.isfinite(number)]
        if finite:
            epochs, values = zip(*finite, strict=True)
            found.append((np.array(epochs), np.array(values, dtype=np.float64)))
    return found


def mean_curve(several: Sequence[Curve]) -> Curve:
    """Mean by epoch over the curves that reach it, as long as at least half of them do."""
    values: dict[int, list[float]] = {}
    for epochs, numbers in several:
        for epoch, number in zip(epochs, numbers, strict=True):
            values.setdefault(int(epoch), []).append(float(number))
    kept = [epoch for epoch in sorted(values) if 2 * len(values[epoch]) >= len(several)]
    return np.array(kept), np.array([np.mean(values[epoch]) for epoch in kept])


def plot_curves(ax: Axes, several: Sequence[Curve], look: Look, scale: float = 1.0) -> None:
    """Thin: each replicate; thick: their mean."""
    color, style = look
    for epochs, values in several:
        ax.plot(epochs, scale * values, color=color, linestyle=style, linewidth=0.7, alpha=0.45)
    epochs, values = mean_curve(several)
    ax.plot(epochs, scale * values, color=color, linestyle=style, linewidth=2.2)


def panels(titles: Sequence[str], *, x: str, y: str, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    """One panel for each title, at most four in a row, on common axes; the legend is left to the caller."""
    count = len(titles)
    columns = 2 if count in (2, 4) else min(count, 3 if count <= 9 else 4)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(5.6 if columns == 1 else 10, height * rows + 0.9), layout="constrained")
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for number, (ax, title) in enumerate(zip(grid, titles, strict=False)):
        lowest = number + columns >= count  # of its column, also where the last row has a gap below it
        ax.set_title(title.replace(", ", ",\n"), loc="left")
        ax.tick_params(labelbottom=lowest)
        ax.set_xlabel(x if lowest else "")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.set_ylabel("" if number % columns else y)
    for ax in grid[count:]:
        ax.remove()
    return figure, grid[:count]


def legend(figure: Figure, looks: Mapping[str, Look], columns: int = 6) -> None:
    handles = [
        Line2D([], [], color=color, linestyle=style, linewidth=2.2, label=name)
        for name, (color, style) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


# ---------------------------------------------------------------------------------------------------- names and looks
def weight_looks(blocks: Iterable[Block]) -> dict[str, Look]:
    """How each weight (`weight/ce`) is drawn, in all blocks the same: by the order in which the histories name them."""
    return _looks(name for name in _measured(blocks) if name.startswith(WEIGHT) and name != ENTROPY)


def gradient_looks(blocks: Iterable[Block]) -> dict[str, Look]:
    """How each gradient share (`gradient/ce`) is drawn: as the term's weight, but where a group has one for several."""
    return _looks(name for name in _measured(blocks) if name.startswith(GRADIENT))


def learned_looks(blocks: Iterable[Block]) -> dict[str, dict[str, Look]]:
    """Learned tensor -> how each of its numbers is drawn, in all blocks the same."""
    found: dict[str, list[str]] = {}
    for name in _measured(blocks):
        if (tensor := tensor_of(name)) is not None:
            found.setdefault(tensor, []).append(name)
    return {tensor: _looks(names) for tensor, names in found.items()}


def tensor_of(metric: str) -> str | None:
    """The learned tensor that a metric is a number of: beta/fine -> beta, angular.scale.0 -> angular.scale; else None.

    By the name alone, for the plugin that knows may be absent.
    """
    if metric.startswith(NOT_LEARNED):
        return None
    if "/" in metric:
        return metric.rpartition("/")[0]
    parts = metric.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else None


def _measured(blocks: Iterable[Block]) -> Iterator[str]:
    """What was measured by epoch in the trials that count, in the order of arms; each name once."""
    trials = (trial for block in blocks for arm in block.arms for trial in arm.chosen.values())
    return iter(dict.fromkeys(name for trial in trials for epoch in trial.history for name in epoch.metrics))


def _looks(names: Iterable[str]) -> dict[str, Look]:
    looks = ((color, style) for style, color in itertools.product(LINE_STYLES, PALETTE))
    return dict(zip(names, looks, strict=False))


# ---------------------------------------------------------------------------------------------------- the figures
def weights_figure(block: Block, looks: Mapping[str, Look]) -> Drawing | None:
    """alpha: each term's share of the loss over the epochs, a panel for each arm with several terms."""
    figure = by_epoch(block, looks, "weight", least=2)
    if figure is None:
        return None
    for ax in figure.axes:
        ax.axhline(COLLAPSE_WEIGHT, color=BLACK, linewidth=1, linestyle=":")
        ax.set_ylim(-0.02, 1.02)
    caption = (
        f"Weight of each loss term over the epochs. {LINES} "
        f"Dotted: {COLLAPSE_WEIGHT}; where the weight of the base term falls under it, the trial counts as collapsed."
    )
    return Drawing("weights", "Loss weights over epochs", caption, "Loss weights by epoch, a panel an arm", figure)


def learned_figure(block: Block, tensor: str, looks: Mapping[str, Look]) -> Drawing | None:
    """The numbers of one learned tensor over the epochs, a panel for each arm that has it."""
    figure = by_epoch(block, looks, tensor)
    if figure is None:
        return None
    name = re.sub(r"[^\w.]+", "-", f"learned-{tensor}")  # a file's
    caption = f"{tensor}, learned beside the network, over the epochs. {LINES}"
    if len(looks) == len(LINE_STYLES) * len(PALETTE):
        caption += f" At most {len(looks)} numbers of it are drawn."
    return Drawing(name, f"{tensor} over epochs", caption, f"{tensor} by epoch, a panel an arm", figure)


def by_epoch(block: Block, looks: Mapping[str, Look], label: str, least: int = 1) -> Figure | None:
    """Panels of the arms in which at least so many of the metrics were measured; None where there is no such arm."""
    measured = {arm.label: {name: several for name in looks if (several := curves(arm, name))} for arm in block.arms}
    drawn = {arm: found for arm, found in measured.items() if len(found) >= least}
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panels(list(drawn), x="epoch", y=label)
        for ax, found in zip(axes, drawn.values(), strict=True):
            for name, several in found.items():
                plot_curves(ax, several, looks[name])
        shown = {name: look for name, look in looks.items() if any(name in found for found in drawn.values())}
        legend(figure, {name.removeprefix(WEIGHT).removeprefix(GRADIENT): look for name, look in shown.items()})
    return figure


def validation_figure(block: Block) -> Drawing | None:
    """Validation top-1 over the epochs, a panel an arm, with the mean of the baseline in each for comparison."""
    drawn = {arm.label: found for arm in block.arms if (found := curves(arm, "val/top1"))}
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panels(list(drawn), x="epoch", y="validation top-1 [%]")
        for ax, (label, several) in zip(axes, drawn.items(), strict=True):
            if label != block.baseline and block.baseline in drawn:
                epochs, values = mean_curve(drawn[block.baseline])
                ax.plot(epochs, 100 * values, color=BLACK, linewidth=1, linestyle="--")
            plot_curves(ax, several, (BLUE, "-"), scale=100)
    dashed = f" Dashed: the mean of {block.baseline}." if block.baseline in drawn else ""
    caption = f"Validation top-1 over the epochs. {LINES}{dashed} Finished trials only."
    return Drawing("validation", "Validation curves", caption, "Validation top-1 by epoch, a panel an arm", figure)


def top1_figure(block: Block) -> Drawing | None:
    """Test top-1 by arm: a dot for every replicate, a line for every pair, a tick for the mean."""
    arms = [arm for arm in block.arms if arm.values(TEST)]
    if not arms:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.42 * len(arms) + 1.1), layout="constrained")
        ax = figure.subplots()
        for key in sorted({key for arm in arms for key in arm.chosen}):
            line = [(100 * arm.values(TEST)[key], row) for row, arm in enumerate(arms) if key in arm.chosen]
            ax.plot(*zip(*line, strict=True), color="#b8b8b8", linewidth=0.8, zorder=1)
        for row, arm in enumerate(arms):
            _dots(ax, arm, row)
        labels = [arm.label.replace(", ", ",\n") for arm in arms]  # a variant's name on a line of its own
        ax.set_yticks(
            range(len(arms)), [f"{label}   {arm.n_ok}/{arm.n_total}" for label, arm in zip(labels, arms, strict=True)]
        )
        ax.set_ylim(len(arms) - 0.5, -0.5)
        ax.set_xlabel("test top-1 [%]")
    caption = (
        "Test top-1: a dot for every replicate (hollow: its weighting collapsed), thin lines join the same seed and "
        "fold across arms, the tall tick is the mean. Beside each arm: trials with a test result / trials started."
    )
    return Drawing("top1", "Test top-1, every replicate", caption, "Dots of test top-1 by arm", figure)


def _dots(ax: Axes, arm: Arm, row: int) -> None:
    values = 100 * np.array(list(arm.values(TEST).values()))
    collapsed = [collapse_step(trial) is not None for trial in arm.chosen.values()]
    faces = ["white" if hollow else BLUE for hollow in collapsed]
    ax.scatter(values, np.full(len(values), row), s=34, c=faces, edgecolors=BLUE, linewidths=1.4, zorder=3)
    ax.plot([values.mean()] * 2, [row - 0.3, row + 0.3], color=BLACK, linewidth=2.2, zorder=2)

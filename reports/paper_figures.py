"""LARESA's figures 4, 8 and 9 of a whole report: the full objective's weights, a panel a backbone and data set."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports.figures import BLACK, WEIGHT, Curve, Drawing, Look, curves, mean_curve
from reports.paper_style import COLUMN, FONT, PAPER_STYLE, TWO_COLUMNS, broken, fitted_legend
from reports.published import LARESA
from reports.select import COLLAPSE_WEIGHT, Arm, Block, collapse_step
from sweeps.service.tracking.records import TrialRecord

MOST_EPOCHS = 200  # drawn of a curve: a panel has hardly more dots than that in its width
ROW, HIGH_ROW, NARROWEST = 0.85, 1.2, 1.1  # inches
FEW = 3  # rows, which may be high
LETTERS = 14  # that go into an inch
EMPTY, NOTE = "#f4f4f4", "#6b6b6b"


@dataclass(frozen=True)
class Pairs:
    """The grid of a report: backbones by data sets, and of each pair the full objective's arm and its curves."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    blocks: Mapping[tuple[str, str], Block]
    label: str
    curves: Mapping[tuple[str, str], Mapping[str, list[Curve]]]

    @classmethod
    def of(cls, blocks: Sequence[Block], looks: Mapping[str, Look], least: int = 1) -> Pairs | None:
        """None where fewer than two blocks have so many of the metrics: one alone has a figure of its own."""
        label = full_label(blocks)
        if label is None:
            return None
        found = {}
        for block in blocks:
            arm = block.arm(label)
            several = {name: each for name in looks if arm and (each := curves(arm, name))}
            if len(several) >= least:
                found[block.backbone, block.dataset] = several
        rows, columns = (tuple(dict.fromkeys(getattr(b, name) for b in blocks)) for name in ("backbone", "dataset"))
        by_pair = {(block.backbone, block.dataset): block for block in blocks}
        return cls(rows, columns, by_pair, label, found) if len(found) > 1 else None

    def trials(self) -> list[TrialRecord]:
        """Those whose curves are drawn."""
        arms = (self.blocks[pair].arm(self.label) for pair in self.curves)
        return [trial for arm in arms if arm for trial in arm.chosen.values()]

    @property
    def said(self) -> str:
        """What every caption says of the lines and of the panels."""
        trials, count = self.trials(), len(self.rows) * len(self.columns)
        lines = "Thin: replicates; thick: their mean, while at least half of them train."
        empty = count - len(self.curves)
        return (
            "over the epochs, a row a backbone, a column a data set, all with the same axes. "
            + (lines if len(trials) > len(self.curves) else "One trial each.")
            + (f" Without curves: {empty} of {count} pairs." if empty else "")
        )


def full_label(blocks: Sequence[Block]) -> str | None:
    """The arm of the full objective: the paper's, else the subset of the most terms that the most blocks have."""
    labels = [arm.label for block in blocks for arm in block.arms if arm.label == arm.subset and "+" in arm.label]
    if LARESA in labels:
        return LARESA
    return max(dict.fromkeys(labels), key=lambda label: (label.count("+"), labels.count(label)), default=None)


def weights_grid(blocks: Sequence[Block], looks: Mapping[str, Look]) -> Drawing | None:
    """alpha over the epochs for every pair of backbone and data set; None with a single one."""
    pairs = Pairs.of(blocks, looks, least=2)
    if pairs is None:
        return None
    trials = pairs.trials()
    fell = sum(collapse_step(trial) is not None for trial in trials)
    dotted = "Dotted: the first epoch that ended with the base term's weight" if fell else "No base term's weight fell"
    caption = (
        f"Weights α of the terms of {pairs.label} (a softmax: they sum to 1) {pairs.said} {dotted} under "
        f"{COLLAPSE_WEIGHT}: {fell} of {len(trials)} trials collapsed."
    )
    alt = f"Loss weights by epoch, {len(pairs.curves)} panels by backbone and data set"
    title = "Loss weights over epochs, backbones by data sets"
    return Drawing("weights-grid", title, caption, alt, _draw(pairs, looks, "weight α", collapse=True))


def learned_grids(blocks: Sequence[Block], learned: Mapping[str, Mapping[str, Look]]) -> list[Drawing]:
    """The same for each learned tensor that the full objective has: beta, above all."""
    drawings = []
    for tensor, looks in learned.items():
        pairs = Pairs.of(blocks, looks)
        if pairs is not None:
            name = re.sub(r"[^\w.]+", "-", f"learned-{tensor}-grid")  # a file's
            caption = f"{tensor} of {pairs.label}, learned beside the network, {pairs.said}"
            alt = f"{tensor} by epoch, {len(pairs.curves)} panels by backbone and data set"
            title = f"{tensor} over epochs, backbones by data sets"
            drawings.append(Drawing(name, title, caption, alt, _draw(pairs, looks, tensor)))
    return drawings


def collapse_epochs(arm: Arm | None) -> list[int]:
    """Of each trial that collapsed the first epoch that ended with its base term's weight under COLLAPSE_WEIGHT."""
    trials = [trial for trial in arm.chosen.values() if collapse_step(trial) is not None] if arm else []
    return [epoch for trial in trials if (epoch := _first_under(trial)) is not None]


def _first_under(trial: TrialRecord) -> int | None:
    weight = WEIGHT + trial.config.subset.split("+")[0]
    return next((m.epoch for m in trial.history if m.metrics.get(weight, 1.0) < COLLAPSE_WEIGHT), None)


# ---------------------------------------------------------------------------------------------------- drawing
def _draw(pairs: Pairs, looks: Mapping[str, Look], y: str, *, collapse: bool = False) -> Figure:
    rows, columns = len(pairs.rows), len(pairs.columns)
    shown = [name for name in looks if any(name in several for several in pairs.curves.values())]
    handles = [Line2D([], [], color=looks[name][0], linestyle=looks[name][1], linewidth=1.5) for name in shown]
    names = [name.removeprefix(WEIGHT) for name in shown]
    with mpl.rc_context(PAPER_STYLE):
        width = max(COLUMN if columns == 1 else TWO_COLUMNS, NARROWEST * columns)
        height = rows * (ROW if rows > FEW else HIGH_ROW)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        fell = 0
        for ax, pair in zip(axes.flat, itertools.product(pairs.rows, pairs.columns), strict=True):
            if pair not in pairs.curves:
                _leave_empty(ax, "no curves" if pair in pairs.blocks else "not run")
                continue
            for name, several in pairs.curves[pair].items():
                _plot(ax, several, looks[name])
            for epoch in collapse_epochs(pairs.blocks[pair].arm(pairs.label)) if collapse else ():
                ax.axvline(epoch, color=BLACK, linewidth=0.8, linestyle=":", zorder=1, gid="collapse")
                fell += 1
        if collapse:
            axes[0, 0].set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1])
        if fell:
            handles.append(Line2D([], [], color=BLACK, linewidth=0.8, linestyle=":"))
            names.append("collapse")
        _name(figure, axes, pairs, y)
        figure.set_size_inches(width, height + fitted_legend(figure, handles, names) + 0.5)
    return figure


def _plot(ax: Axes, several: Sequence[Curve], look: Look) -> None:
    color, style = look
    if len(several) > 1:
        for curve in several:
            ax.plot(*_thinned(curve), color=color, linestyle=style, linewidth=0.4, alpha=0.5)
    ax.plot(*_thinned(mean_curve(several)), color=color, linestyle=style, linewidth=1.3)


def _thinned(curve: Curve) -> Curve:
    """Epochs spread evenly, the first and the last among them: 27 panels of a thousand epochs would be a huge file."""
    epochs, values = curve
    kept = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_EPOCHS)).round().astype(int))
    return epochs[kept], values[kept]


def _leave_empty(ax: Axes, why: str) -> None:
    ax.set_facecolor(EMPTY)
    ax.grid(False)
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color=NOTE, fontsize=FONT)


def _name(figure: Figure, axes: np.ndarray, pairs: Pairs, y: str) -> None:
    """Data sets over the columns, backbones beside the rows, and each axis once."""
    for ax, dataset in zip(axes[0], pairs.columns, strict=True):
        ax.set_title(broken(dataset, " ", int(LETTERS * figure.get_figwidth() / len(pairs.columns))))
    for ax, backbone in zip(axes[:, -1], _short(pairs.rows), strict=True):
        ax.annotate(
            broken(backbone, "_."),
            (1, 0.5),
            (4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            rotation=270,
            ha="left",
            va="center",
            annotation_clip=False,
        )
    for ax in axes.flat:
        ax.tick_params(labelsize=FONT)  # ticks are made when the figure is saved, and in that style
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    for ax in axes[-1]:  # an x label of the whole figure would lie under the legend
        ax.set_xlabel("epoch")
    figure.supylabel(y, fontsize=FONT)


def _short(backbones: Sequence[str]) -> list[str]:
    """timm's names without the training's tag (resnet50.a1_in1k), where they stay apart without it."""
    stems = [name.split(".")[0] for name in backbones]
    return stems if len(set(stems)) == len(stems) else list(backbones)

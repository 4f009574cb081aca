"""Accuracy against how bad mistakes are, and against the setting that an arm was varied in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from laresa.measurement import CRM
from reports.figures import BLACK, BLUE, PALETTE, STYLE, Drawing
from reports.formats import Number
from reports.select import TEST, Arm, Block
from reports.statistics import mean_sd

SEVERITY = "test/mistake_severity"
MARKERS = "os^Dv"  # as often the palette is gone through


def severity_figure(block: Block) -> Drawing | None:
    """Severity against top-1, each arm's mean by the plain decision and by CRM, joined; None without a tree."""
    arms = [arm for arm in block.arms if arm.values(SEVERITY)]
    if not arms:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.2), layout="constrained")
        ax = figure.subplots()
        looks = itertools.cycle((color, marker) for marker in MARKERS for color in PALETTE)
        for arm, (color, marker) in zip(arms, looks, strict=False):
            points = [point for end in ("", CRM) if (point := _point(arm, end)) is not None]
            ax.plot(*zip(*points, strict=True), color=color, linewidth=0.8, zorder=1)
            for (top1, severity), face in zip(points, (color, "white"), strict=False):
                ax.scatter(top1, severity, s=46, marker=marker, facecolors=face, edgecolors=color, zorder=2)
            ax.scatter([], [], s=46, marker=marker, color=color, label=arm.label)
        ax.set_xlabel("test top-1 [%]")
        ax.set_ylabel("severity of the mistakes")
        figure.legend(loc="outside right center")
    caption = (
        "Mistake severity (mean height of the lowest common ancestor over the wrong predictions) against test top-1, "
        "the mean of each arm's replicates. Filled: the plain decision; hollow: the class of least expected height "
        "(CRM). Right and low is better. Severity also falls when mild mistakes are added: a step down and to the left."
    )
    alt = "Scatter of mistake severity against test top-1, two points an arm"
    return Drawing("severity", "Severity against accuracy", caption, alt, figure)


def _point(arm: Arm, end: str) -> tuple[float, float] | None:
    """(top-1 in percent, severity) over the replicates that have both."""
    top1, severity = arm.values(f"{TEST}{end}"), arm.values(f"{SEVERITY}{end}")
    both = top1.keys() & severity.keys()
    if not both:
        return None
    return 100 * mean_sd([top1[key] for key in both])[0], mean_sd([severity[key] for key in both])[0]


@dataclass(frozen=True)
class Curve:
    """An arm that was varied: its arms by the value of one field."""

    subset: str
    field: str
    arms: dict[float, Arm]


def varied_figure(block: Block) -> Drawing | None:
    """Test top-1 against the field that arms were varied in, the baseline as a line; None where none were."""
    curves = list(varied(block.arms))
    if not curves:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        axes = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
        for ax, curve in zip(axes, curves, strict=True):
            for value, arm in curve.arms.items():
                scores = [100 * number for number in arm.values(TEST).values()]
                ax.scatter([value] * len(scores), scores, s=18, facecolors="none", edgecolors=BLUE, linewidths=0.8)
            means = {value: 100 * mean_sd(list(arm.values(TEST).values()))[0] for value, arm in curve.arms.items()}
            ax.plot(list(means), list(means.values()), color=BLUE, linewidth=2.2, marker="o", markersize=5)
            base = block.arm(block.baseline)
            if base is not None and base.values(TEST):
                at = 100 * mean_sd(list(base.values(TEST).values()))[0]
                ax.axhline(at, color=BLACK, linewidth=1, linestyle="--")
            ax.set_xlabel(curve.field)
            ax.set_title(curve.subset, loc="left")
        axes[0].set_ylabel("test top-1 [%]")
        handles = [
            Line2D([], [], color=BLUE, marker="o", linewidth=2.2, label="mean"),
            Line2D([], [], color=BLACK, linestyle="--", linewidth=1, label=str(block.baseline)),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    caption = (
        "Test top-1 against the setting that an arm was varied in: hollow dots are replicates, filled ones their mean. "
        f"Dashed: the mean of {block.baseline}."
    )
    return Drawing("varied", "Settings as curves", caption, "Test top-1 by the value of a setting", figure)


def varied(arms: Iterable[Arm]) -> Iterable[Curve]:
    """Arms "SUBSET, FIELD VALUE" of a subset whose numbers differ, by value: what --vary made, and shares of noise.

    Of a share (a field of no term, absent where it is 0) the subset's own arm is the curve's beginning.
    """
    known = {arm.label: arm for arm in arms}
    found: dict[tuple[str, str], dict[float, Arm]] = {}
    for arm in known.values():
        for name, value in arm.trials[0].config.resolved.items():
            if _number(value) and arm.label == f"{arm.subset}, {name.partition('.')[2] or name} {value:g}":
                found.setdefault((arm.subset, name), {})[float(value)] = arm
    for (subset, name), by_value in found.items():
        plain = known.get(subset)
        if plain is not None and "." not in name and name not in plain.trials[0].config.resolved:
            by_value[0.0] = plain
        measured = {value: by_value[value] for value in sorted(by_value) if by_value[value].values(TEST)}
        if len(measured) > 1:
            yield Curve(subset, name, measured)


def _number(value: Number | bool | tuple[float, ...]) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

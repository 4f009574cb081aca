"""How much of an arm's accuracy is left on corrupted test images, for trials that were tested on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import matplotlib as mpl

from laresa.measurement import CORRUPTIONS, STRENGTHS, TOP1_CORRUPTED, corrupted
from reports.figures import LINE_STYLES, PALETTE, STYLE, Drawing, legend, panels
from reports.formats import Table
from reports.select import TEST, Arm, Block
from reports.statistics import mean_sd
from reports.tables import Context, Quantity, quantities_table
from sweeps.service.tracking.records import TrialRecord

DROP = "corrupted/drop"
KINDS = {kind: f"corrupted/{kind}" for kind in CORRUPTIONS}  # the metric of its mean over strengths, made here
QUANTITIES = (
    *(Quantity(metric, f"{kind} [%]", kind, 100, 1) for kind, metric in KINDS.items()),
    Quantity(TOP1_CORRUPTED, "all [%]", "all", 100, 1),
    Quantity(DROP, "drop [points]", "drop", 100, 1, ranked=False),
)


def robustness_table(context: Context) -> Table | None:
    """Top-1 by arm and kind of corruption, the mean of all and how far it lies under the clean test top-1."""
    if not any(_tested(block) for block in context.blocks):
        return None
    blocks = tuple(replace(block, arms=tuple(map(_with_means, block.arms))) for block in context.blocks)
    notes = (
        f"Top-1 on the corrupted test images, of each kind the mean over strengths {STRENGTHS[0]} to {STRENGTHS[-1]}; "
        "all: the mean over all kinds and strengths.",
        "Drop: test top-1 minus that, by trial; a weak arm has little to lose, so read it beside the accuracy that is "
        "left.",
    )
    title = "Top-1 on corrupted test images"
    return quantities_table(replace(context, blocks=blocks), "robustness", title, QUANTITIES, notes)


def _tested(block: Block) -> bool:
    return any(arm.values(TOP1_CORRUPTED) for arm in block.arms)


def _with_means(arm: Arm) -> Arm:
    """The arm, its chosen trials with the numbers of the table among their metrics."""
    chosen = {key: replace(trial, metrics={**trial.metrics, **_means(trial)}) for key, trial in arm.chosen.items()}
    return replace(arm, chosen=chosen)


def _means(trial: TrialRecord) -> Mapping[str, float]:
    if TOP1_CORRUPTED not in trial.metrics:
        return {}
    found = {
        metric: fmean(trial.metrics[corrupted(kind, strength)] for strength in STRENGTHS)
        for kind, metric in KINDS.items()
    }
    return found | {DROP: trial.metrics[TEST] - trial.metrics[TOP1_CORRUPTED]}


def robustness_figure(block: Block) -> Drawing | None:
    """Top-1 over the strength, a panel a kind, a line an arm; strength 0 is the clean test part."""
    arms = [arm for arm in block.arms if arm.values(TOP1_CORRUPTED)]
    if not arms:
        return None
    looks = itertools.cycle((color, style) for style in LINE_STYLES for color in PALETTE)
    shown = list(zip(arms, looks, strict=False))
    with mpl.rc_context(STYLE):
        figure, axes = panels(CORRUPTIONS, x="strength", y="test top-1 [%]")
        for ax, kind in zip(axes, CORRUPTIONS, strict=True):
            for arm, (color, style) in shown:
                ax.plot((0, *STRENGTHS), _line(arm, kind), color=color, linestyle=style, linewidth=1.8)
        legend(figure, {arm.label: look for arm, look in shown}, columns=3)
    caption = (
        "Test top-1 on corrupted test images over the strength of the corruption, the mean of each arm's replicates; "
        "strength 0 is the test part as it is."
    )
    alt = "Test top-1 by strength, a panel a kind of corruption, a line an arm"
    return Drawing("robustness", "Accuracy on corrupted images", caption, alt, figure)


def _line(arm: Arm, kind: str) -> list[float]:
    """Percent at strengths 0 to 5, over the replicates that were tested on corrupted images."""
    keys = arm.values(TOP1_CORRUPTED)
    several = [arm.values(metric) for metric in (TEST, *(corrupted(kind, strength) for strength in STRENGTHS))]
    return [100 * mean_sd([values[key] for key in keys])[0] for values in several]

"""Why an arm harms, from what was watched: rank of the latents, whose gradient pulls, how the weights moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

import matplotlib as mpl
import numpy as np

from reports.comparisons import Comparison
from reports.figures import (
    BLACK,
    BLUE,
    GRADIENT,
    LINES,
    STYLE,
    Curve,
    Drawing,
    Look,
    by_epoch,
    curves,
    mean_curve,
    panels,
    plot_curves,
)
from reports.formats import MISSING, Cell, Column, Table
from reports.select import RANK, Arm, Block, collapse_step, rank_collapsed
from reports.statistics import ALPHA
from reports.tables import ARM, Context, Row, block_rows, label_cell
from sweeps.service.tracking.records import TrialRecord

NEAR_ONE = 0.9  # of a weight


# ---------------------------------------------------------------------------------------------------- figures
def rank_figure(block: Block) -> Drawing | None:
    """Effective rank of the validation latents over the epochs, a panel an arm, the baseline's mean in each."""
    drawn = {arm.label: found for arm in block.arms if (found := curves(arm, "latent/effective_rank"))}
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panels(list(drawn), x="epoch", y="effective rank")
        for ax, (label, several) in zip(axes, drawn.items(), strict=True):
            if label != block.baseline and block.baseline in drawn:
                epochs, values = mean_curve(drawn[block.baseline])
                ax.plot(epochs, values, color=BLACK, linewidth=1, linestyle="--")
            plot_curves(ax, several, (BLUE, "-"))
            ax.set_yscale("log")
    dashed = f" Dashed: the mean of {block.baseline}." if block.baseline in drawn else ""
    caption = f"Effective rank of the validation latents over the epochs. {LINES}{dashed}"
    return Drawing("rank", "Rank of the latents", caption, "Effective rank by epoch, a panel an arm", figure)


def gradients_figure(block: Block, looks: Mapping[str, Look]) -> Drawing | None:
    """Each term's share of what pulls at the latents, over the epochs, a panel for each arm with several terms."""
    figure = by_epoch(block, looks, "share", least=2)
    if figure is None:
        return None
    for ax in figure.axes:
        ax.set_ylim(-0.02, 1.02)
    caption = (
        "Share of each term in what pulls at the latents: its weight times the norm of its gradient at z, over the "
        f"sum of all terms', at the first step of each epoch that is watched. {LINES}"
    )
    return Drawing("gradients", "Whose gradient pulls", caption, "Gradient shares by epoch, a panel an arm", figure)


# ---------------------------------------------------------------------------------------------------- the order of 4.5
def _falls(trial: TrialRecord, *names: str) -> bool | None:
    found = [_curve(trial, name) for name in names]
    known = [curve[1] for curve in found if curve is not None]
    return all(int(np.argmax(v)) == 0 and v[-1] < v[0] for v in known) if len(known) == len(found) else None


def _peaks_before(trial: TrialRecord, first: str, second: str) -> bool | None:
    one, other = _curve(trial, first), _curve(trial, second)
    return None if one is None or other is None else bool(np.argmax(one[1]) < np.argmax(other[1]))


def _ends_near_one(trial: TrialRecord, name: str) -> bool | None:
    found = _curve(trial, name)
    return None if found is None else bool(found[1][-1] >= NEAR_ONE)


def _coarse_first(trial: TrialRecord) -> bool | None:
    """Whether the coarse weight rises above its start, and fine peaks after it."""
    coarse, fine = _curve(trial, "beta/coarse"), _curve(trial, "beta/fine")
    if coarse is None or fine is None:
        return None
    rises = coarse[1].max() > coarse[1][0]
    return bool(rises and np.argmax(coarse[1]) < np.argmax(fine[1]))


ORDER: Mapping[str, Callable[[TrialRecord], bool | None]] = {
    "ce and variance fall from the start": lambda trial: _falls(trial, "weight/ce", "weight/variance"),
    "anchor peaks before triplet": lambda trial: _peaks_before(trial, "weight/anchor", "weight/triplet"),
    "center ends close to 1": lambda trial: _ends_near_one(trial, "weight/center"),
    "beta: coarse before fine": _coarse_first,
}


def order_table(context: Context) -> Table | None:
    """Whether the weights move in the order that LARESA describes; None where no arm has what it speaks of."""
    blocks = tuple(
        rows for b in context.blocks if (rows := block_rows(b, [r for a in b.arms if (r := _order_row(a))])).rows
    )
    columns = (
        ARM,
        *(Column(said, (f"agree_{n}", f"of_{n}")) for n, said in enumerate(ORDER, start=1)),
        Column("agrees", ("agrees",)),
    )
    notes = (
        "LARESA, sec. 4.5, says in which order the weights of the full objective move; k/n: in k of n trials they do. "
        f"Close to 1: at least {NEAR_ONE:g} in the last epoch. What an arm has no terms for has no entry.",
    )
    return Table("order", "Order of the weights", columns, blocks, context.notes(*notes)) if blocks else None


def _order_row(arm: Arm) -> Row | None:
    found = [[said for trial in arm.chosen.values() if (said := rule(trial)) is not None] for rule in ORDER.values()]
    if not any(found):
        return None
    cells = [Cell(f"{sum(own)}/{len(own)}" if own else MISSING, (sum(own), len(own))) for own in found]
    mostly = [2 * sum(own) > len(own) for own in found if own]
    text = "yes" if all(mostly) else f"{sum(mostly)} of {len(mostly)}"
    return (label_cell(arm), *cells, Cell(text, (int(all(mostly)),)))


def _curve(trial: TrialRecord, metric: str) -> Curve | None:
    points = [(m.epoch, m.metrics[metric]) for m in trial.history if math.isfinite(m.metrics.get(metric, math.nan))]
    if len(points) < 2 or len({value for _, value in points}) == 1:  # weights that are fixed have no order
        return None
    epochs, values = zip(*points, strict=True)
    return np.array(epochs), np.array(values)


# ---------------------------------------------------------------------------------------------------- in words
def harm(blocks: Sequence[Block], against_base: Sequence[Comparison]) -> list[str]:
    """A sentence for each arm that is below the baseline beyond chance, saying why; else that none is."""
    below = [c for c in against_base if c.n and c.main.mean < 0 and c.p_holm <= ALPHA]
    if not below:
        tested = [c for c in against_base if c.n]
        return [f"No arm is below {tested[0].against} beyond chance."] if tested else []
    return [_sentence(c, len(blocks) > 1) for c in below]


def _sentence(c: Comparison, several: bool) -> str:
    arm, base = c.block.arm(c.arm), c.block.arm(c.against)
    if arm is None or base is None:
        raise ValueError(f"comparison of {c.arm} with {c.against}: its block lacks an arm")
    where = f" ({c.block.title})" if several else ""
    return f"{c.arm}{where} is {-c.main.mean:.1f} points below {c.against}: {why(arm, base)}."


def why(arm: Arm, base: Arm) -> str:
    """What was measured of an arm that does worse than the baseline, and is known to harm."""
    trials, loud = list(arm.chosen.values()), _loudest(arm)
    pull = f"; {loud[0]} makes {100 * loud[1]:.0f} % of what pulls at them" if loud else ""
    if 2 * sum(map(rank_collapsed, trials)) > len(trials):
        ranks = [fmean(v) for a in (arm, base) if (v := list(a.values(RANK).values()))]
        than = f" ({base.label}: {ranks[1]:.1f})" if len(ranks) > 1 else ""
        return f"its latents collapsed to an effective rank of {ranks[0]:.1f}{than}{pull}"
    steps = [step for trial in trials if (step := collapse_step(trial)) is not None]
    if 2 * len(steps) > len(trials):
        return f"the weight of its base term fell under 0.05, at step {median(steps):,.0f} in the median"
    if loud and loud[1] > 0.5:
        return (
            f"{loud[0]} makes {100 * loud[1]:.0f} % of what pulls at its latents, whose rank and weights did not "
            f"collapse"
        )
    return (
        "nothing that was watched says why: neither rank nor weights collapsed, and no term pulls more than the others"
    )


def _loudest(arm: Arm) -> tuple[str, float] | None:
    """The term beside the base term with the greatest share of the gradient, and that share, over epochs and trials."""
    base, shares = arm.subset.split("+")[0], dict[str, list[float]]()
    for trial in arm.chosen.values():
        for measurement in trial.history:
            for name, number in measurement.metrics.items():
                if name.startswith(GRADIENT) and name != GRADIENT + base:
                    shares.setdefault(name.removeprefix(GRADIENT), []).append(number)
    means = {name: fmean(found) for name, found in shares.items()}
    return max(means.items(), key=lambda item: item[1]) if means else None

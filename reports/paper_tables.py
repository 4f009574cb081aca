"""The paper's tables 7 (with 1), 2, 3 and 8, of our records, each with the published row under ours.

Only for pairs of data set and backbone that the paper has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np

from laresa.config import SUBSETS
from reports.comparisons import Comparison
from reports.formats import MISSING, Cell, Column, Table, interval, minus, signed, spread
from reports.paper_gains import claims_table, gains_table
from reports.published import BASELINE, LARESA, dataset_name, epochs_by_pair, models, published
from reports.published.gains import not_faster
from reports.reach import reach_table
from reports.select import Arm, Block
from reports.statistics import Floats, mean_sd, paired_differences, prediction_interval
from reports.tables import (
    CORRELATIONS,
    NN_HIT,
    PEAK,
    SEED_AND_FOLD,
    SILHOUETTE,
    TOP1,
    Context,
    Quantity,
    Row,
    block_rows,
    mean_of,
)

NN_HIT_PREDICTED = Quantity("test/nn_hit_predicted", "NN-hit, predicted classes [%]", "nn_hit_predicted", 100, 1)
NOT_COMPARABLE = ("TinyImageNet",)  # the paper's names of data sets whose coarse classes are others than ours
READ_AS = {NN_HIT_PREDICTED.metric: NN_HIT.metric}  # ours -> the published number, which may be either
MISFIT = (
    "Paper: LARESA; each cell is one run, seed 42 (App. A). !: the published number lies outside our 95 % prediction "
    "interval (t), where one more run of ours would lie; inside it, the two agree as far as one run can tell. The "
    "interval knows of our replicates alone: the paper's halves of the test images are not published, and other images "
    "shift all of its numbers."
)
ONE_RUN = (
    "One run of ours stands beside one run of the paper: without a second seed there is no deviation and no interval, "
    "so no difference here, of arms or to the paper, can be told from the noise of the seed."
)
SHORT = {"ce": "ce", LARESA: "full"}


@dataclass(frozen=True)
class Shown:
    """One quantity of one arm, a column of a table. digits: decimals of the paper's own number."""

    arm: str
    quantity: Quantity
    digits: int

    @property
    def column(self) -> Column:
        stem = f"{self.quantity.stem}_{SHORT.get(self.arm, self.arm).replace('+', '_')}"
        keys = (stem, *(f"{stem}_{name}" for name in ("sd", "n", "predicted_low", "predicted_high")))
        return Column(f"{self.quantity.title}, {SHORT.get(self.arm, self.arm)}", keys)


WHO = Column("row", ("row", "comparable"), "l")
N = Column("n", ("n_least", "n_most"))
GAIN_INTERVAL = Column("95 % interval", ("gain_low", "gain_high"))


def made(context: Context, found: Sequence[Comparison]) -> tuple[Table, ...]:
    """Every table of which the study has a pair. found: the arms against the baseline."""
    of_paper = tuple(block for block in context.blocks if published(block.dataset, block.backbone))
    if not of_paper:
        return ()
    of_pairs = replace(context, blocks=of_paper)
    candidates = (
        top1_table(of_pairs, found),
        gains_table(),
        claims_table(),
        latents_table(of_pairs),
        correlations_table(of_pairs),
        epochs_table(of_pairs),
        reach_table(of_pairs),
    )
    return tuple(table for table in candidates if table is not None)


# ---------------------------------------------------------------------------------------------------- table 7 and 1
def top1_table(context: Context, found: Sequence[Comparison]) -> Table | None:
    """Table 7: top-1 by subset and the gain of the full objective. Table 1 is its rows of three backbones."""
    shown = [Shown(subset, TOP1, 2) for subset in SUBSETS]
    columns = tuple(replace(s.column, title=_short(s.arm)) for s in shown)
    gain = Column("gain of full [points]", ("gain", "gain_sd", "n_pairs", "gain_predicted_low", "gain_predicted_high"))

    def more(block: Block) -> tuple[Row, Row]:
        return _gains(block, found)

    notes = (
        "Test top-1 in percent by loss subset; + stands for ce+. Bold: the best of a row, underlined: the second.",
        "Gain: full minus ce, paired by seed and fold; its interval is that of the comparison with ce.",
        "The paper's table 1 is no aggregate: it repeats table 7's rows of ResNet50, ConvNeXt-B and ViT-Large-32. The "
        "27 configurations of table 7 are all there are; App. A speaks of 29.",
    )
    return _table(
        context, "paper-top1", "Test top-1 by subset, beside table 7 of the paper", shown, notes, columns,
        ranked=True, more=((gain, GAIN_INTERVAL), more),
    )  # fmt: skip


def _short(subset: str) -> str:
    return SHORT.get(subset, subset.removeprefix("ce"))


def _gains(block: Block, found: Sequence[Comparison]) -> tuple[Row, Row]:
    """The cells of the gain: ours, the paper's."""
    ce, full = block.arm(BASELINE), block.arm(LARESA)
    pairs = paired_differences(full.values(TOP1.metric), ce.values(TOP1.metric)) if ce and full else {}
    points = np.array([100 * difference for difference in pairs.values()])
    (mean, sd), (low, high) = mean_sd(points), prediction_interval(points)
    compared = next((c for c in found if (c.block, c.arm, c.against) == (block, LARESA, BASELINE)), None)
    ends = (compared.main.low, compared.main.high) if compared else (math.nan, math.nan)
    numbers = published(block.dataset, block.backbone)
    gain = round(numbers[LARESA, TOP1.metric] - numbers[BASELINE, TOP1.metric], 2)
    text = signed(mean, 1) + ("" if math.isnan(sd) else f" ± {sd:.1f}")
    ours = (Cell(text, (mean, sd, len(points), low, high)), Cell(interval(*ends), ends))
    paper = Cell(signed(gain, 2) + _mark(gain, low, high), (gain, None, 1, None, None))
    return ours, (paper, Cell(MISSING, (None, None)))


# ---------------------------------------------------------------------------------------------------- 2, 3, 8
def latents_table(context: Context) -> Table | None:
    """Table 2: silhouette and NN-hit of ce and of the full objective, by both readings of Eq. 7."""
    quantities = ((SILHOUETTE, 4), (NN_HIT, 1), (NN_HIT_PREDICTED, 1))
    notes = (
        "Silhouette over coarse classes, Euclidean. NN-hit: share of class centroids whose nearest other one has the "
        "same coarse class. The paper's Eq. 7 sums over K predicted classes: the first NN-hit has centroids by the "
        "true class, the second by the predicted one (a class never predicted has none); the published number, which "
        "may be either, stands under both.",
        *_coarse_note(context),
    )
    return _table(context, "paper-latents", "Latent space on test, beside table 2 of the paper", _both(quantities),
                  notes, coarse=True)  # fmt: skip


def correlations_table(context: Context) -> Table | None:
    """Table 3: correlation of distances over coarse classes."""
    quantities = [(quantity, 4) for quantity in CORRELATIONS if quantity.metric.endswith("coarse")]
    notes = (
        "Over pairs of coarse classes: Euclidean distance of centroids on the latent side (the paper doesn't say "
        "which), cosine distance of the label embeddings.",
        *_coarse_note(context),
    )
    title = "Correlation with label semantics, beside table 3 of the paper"
    return _table(context, "paper-correlations", title, _both(quantities), notes, coarse=True)


def epochs_table(context: Context) -> Table | None:
    """Table 8: epochs to the peak of validation top-1."""
    slower = not_faster()
    notes = (
        "Epochs to the arm's own peak of validation top-1; fewer is faster, not better.",
        'Table 8 heads its numbers "mean ± std" and says nowhere of what. One seed was run (App. A), so its ± is no '
        "deviation over seeds, and no test is made with it here; ours is over replicates.",
        f"In {len(slower)} of {len(epochs_by_pair())} pairs of table 8 the full objective is NOT faster: "
        f"{', '.join(' on '.join(pair) for pair in slower)}.",
    )
    title = "Epochs to peak validation accuracy, beside table 8 of the paper"
    return _table(context, "paper-epochs", title, _both([(PEAK, 0)]), notes)


def _both(quantities: Sequence[tuple[Quantity, int]]) -> list[Shown]:
    return [Shown(arm, quantity, digits) for quantity, digits in quantities for arm in (BASELINE, LARESA)]


def _coarse_note(context: Context) -> tuple[str, ...]:
    """Why the coarse numbers of a data set can't be held against the paper's; of TinyImageNet alone."""
    if not any(dataset_name(block.dataset) in NOT_COMPARABLE for block in context.blocks):
        return ()
    text = (resources.files("laresa") / "data" / "tinyimagenet.json").read_text(encoding="utf-8")
    found = json.loads(text)
    return (
        f"TinyImageNet, not comparable: {len(found['not_classes'])} names in the paper's mapping are no classes of "
        f"this data set, which has {len(found['classes'])}; the two rows stand on different coarse classes, and no ! "
        "is set.",
    )


# ---------------------------------------------------------------------------------------------------- rows
More = tuple[tuple[Column, ...], Callable[[Block], tuple[Row, Row]]]


def _table(
    context: Context,
    name: str,
    title: str,
    shown: Sequence[Shown],
    notes: Sequence[str],
    columns: Sequence[Column] = (),
    *,
    ranked: bool = False,
    coarse: bool = False,
    more: More | None = None,
) -> Table | None:
    """A row of ours and one of the paper for every pair that has both an arm of ours and a number of the paper."""
    blocks, single, marks = [], [], []
    for block in context.blocks:
        numbers = published(block.dataset, block.backbone)
        asked = {(s.arm, READ_AS.get(s.quantity.metric, s.quantity.metric)) for s in shown}
        if not asked & numbers.keys() or not any(block.arm(arm) for arm, _ in asked):
            continue
        comparable = not (coarse and dataset_name(block.dataset) in NOT_COMPARABLE)
        cells = [_cells(block, s, numbers, comparable) for s in shown]
        marks += [paper.text.endswith("!") for ours, paper in cells if comparable and _predicts(ours, paper)]
        ours, paper = ([cell[side] for cell in cells] for side in (0, 1))
        sizes = [len(arm.chosen) for s in shown if (arm := block.arm(s.arm))]
        single += [block.title] * (max(sizes) == 1)
        extra: tuple[Row, Row] = more[1](block) if more else ((), ())
        words = "" if comparable else " (not comparable)"
        rows = (
            (Cell("ours", ("ours", int(comparable))), *_ranked(ours, ranked), *extra[0], _count(sizes)),
            (Cell(f"paper{words}", ("paper", int(comparable))), *_ranked(paper, ranked), *extra[1], _count([1])),
        )
        blocks.append(block_rows(block, rows))
    heads = (WHO, *(columns or [s.column for s in shown]), *(more[0] if more else ()), N)
    where = f"{'; '.join(single)}: " if len(single) < len(blocks) else ""
    verdict = where + ONE_RUN if single else ""
    count = f"{sum(marks)} of {len(marks)} published cells are marked; of runs just like ours 1 in 20 would be."
    said = context.notes(SEED_AND_FOLD, MISFIT, *([count] if marks else []), *notes, *_other_weights(context.blocks))
    return Table(name, title, heads, tuple(blocks), said, verdict=verdict) if blocks else None


def _other_weights(blocks: Sequence[Block]) -> list[str]:
    """Backbones that began with other weights than the paper says."""
    found = dict.fromkeys(block.backbone for block in blocks if "in21k" in block.backbone)
    return [f"{', '.join(found)}: weights of ImageNet-21k first; the paper says ImageNet-1k."] if found else []


def _predicts(ours: Cell, paper: Cell) -> bool:
    """Whether there is an interval of ours and a number for it."""
    low = ours.values[3]
    return isinstance(low, float) and math.isfinite(low) and paper.values[0] is not None


def _cells(block: Block, s: Shown, numbers: Mapping[tuple[str, str], float], comparable: bool) -> tuple[Cell, Cell]:
    """Ours and the paper's."""
    arm = block.arm(s.arm)
    values = _values(arm, s.quantity)
    (mean, sd), (low, high) = mean_sd(values), prediction_interval(values)
    lacking = f" (n = {len(values)})" if arm and 0 < len(values) < len(arm.chosen) else ""
    ours = Cell(spread(mean, sd, s.quantity.digits) + lacking, (mean, sd, len(values), low, high))
    number = numbers.get((s.arm, READ_AS.get(s.quantity.metric, s.quantity.metric)), math.nan)
    if math.isnan(number):
        return ours, Cell(MISSING, (None,) * 5)
    text, deviation = minus(f"{number:.{s.digits}f}"), None
    if s.quantity is PEAK:
        deviation = _plus_minus(block, s.arm)
        text += f" ± {deviation:g}"
    mark = _mark(number, low, high) if comparable else ""
    return ours, Cell(text + mark, (number, deviation, 1, None, None))


def _plus_minus(block: Block, arm: str) -> float:
    """What stands behind the ± of table 8."""
    name = dataset_name(block.dataset)
    return next(found[arm][1] for m in models(block.backbone) if (found := epochs_by_pair().get((m, name))))


def _values(arm: Arm | None, quantity: Quantity) -> Floats:
    return np.array([quantity.scale * v for v in arm.values(quantity.metric).values()] if arm else [], dtype=np.float64)


def _mark(number: float, low: float, high: float) -> str:
    return " !" if math.isfinite(low) and not low <= number <= high else ""


def _count(sizes: Sequence[int]) -> Cell:
    least, most = min(sizes), max(sizes)
    return Cell(str(most) if least == most else f"{least} to {most}", (least, most))


def _ranked(cells: Sequence[Cell], ranked: bool) -> Sequence[Cell]:
    """The highest of the row marked best, the next one second."""
    found = {mean_of(cell) for cell in cells if not math.isnan(mean_of(cell))}
    marks = dict(zip(sorted(found, reverse=True), ("best", "second"), strict=False)) if len(found) > 1 else {}
    return [replace(cell, mark=marks.get(mean_of(cell), "")) for cell in cells] if ranked else cells

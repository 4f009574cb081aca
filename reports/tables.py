"""What each table says: records in, `formats.Table` out. Failed trials are counted in every one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from laresa.measurement import RANK_COLLAPSE
from reports.formats import Cell, Column, Rows, Table, signed, spread
from reports.select import RANK, TEST, Arm, Block, Budget, SelectionRule
from reports.statistics import mean_sd, paired_differences

Row = tuple[Cell, ...]
SEED_AND_FOLD = "± is the sample standard deviation (ddof 1) over the n replicates, each one seed and fold."
COUNTS = (
    "ok: trials that finished with a test result / trials started; "
    "failed, pruned, interrupted and running ones count in the second number."
)


@dataclass(frozen=True)
class Quantity:
    """A metric as it is shown: its name in the records, a title, factor and decimals; stem: of its CSV columns."""

    metric: str
    title: str
    stem: str
    scale: float = 1.0
    digits: int = 3
    ranked: bool = True  # higher is better: mark the best and the second


TOP1 = Quantity(TEST, "test top-1 [%]", "top1", 100, 1)
NN_HIT = Quantity("test/nn_hit", "NN-hit [%]", "nn_hit", 100, 1)
SILHOUETTE = Quantity("test/silhouette", "silhouette", "silhouette")
EFFECTIVE_RANK = Quantity(RANK, "effective rank", "rank", digits=1, ranked=False)
CORRELATIONS = tuple(
    Quantity(f"test/{kind}_{level}", f"{kind.capitalize()}, {level}", f"{kind}_{level}")
    for level in ("fine", "coarse")
    for kind in ("spearman", "pearson")
)
PEAK = Quantity("best_epoch", "epochs to peak", "epochs", digits=1, ranked=False)


# ---------------------------------------------------------------------------------------------------- cells
def label_cell(arm: Arm) -> Cell:
    return Cell(arm.label, (arm.label,))


def count_cell(arm: Arm) -> Cell:
    """ "9/10"; where several trials stand for one replicate, also how many replicates are left."""
    n = len(arm.chosen)
    text = f"{arm.n_ok}/{arm.n_total}" + (f" (n = {n})" if n != arm.n_ok else "")
    return Cell(text, (n, arm.n_ok, arm.n_total))


# What stands behind an arm whose search had no finished trial to choose from, and what it means.
NOT_FINISHED = {
    "pruned": ("‡", "‡: no trial of the arm's search finished; it has the best configuration of those stopped early."),
    "given": ("§", "§: no trial of the arm's search was measured; it has the settings that it was given."),
}


def chosen_cell(arm: Arm) -> Cell:
    """The arm's label, marked where its search chose from less than a finished trial."""
    marks = "".join(mark for how, (mark, _) in NOT_FINISHED.items() if how in arm.choices)
    return Cell(f"{arm.label} {marks}".strip(), (arm.label,))


COUNT = Column("ok", ("n", "n_ok", "n_total"))
ARM = Column("arm", ("arm",), "l")


def quantity_cell(arm: Arm, quantity: Quantity) -> Cell:
    """Mean ± deviation over the replicates that have the metric; says n where some of them lack it."""
    values = [quantity.scale * number for number in arm.values(quantity.metric).values()]
    mean, sd = mean_sd(values)
    text = spread(mean, sd, quantity.digits)
    if 0 < len(values) < len(arm.chosen):
        text += f" (n = {len(values)})"
    return Cell(text, (mean, sd))


def quantity_column(quantity: Quantity) -> Column:
    return Column(quantity.title, (f"{quantity.stem}_mean", f"{quantity.stem}_sd"))


def marked(rows: Sequence[Row], column: int) -> list[Row]:
    """The highest mean of the column marked best, the next one second. A single row has no rival and no mark."""
    ranks = sorted({mean_of(row[column]) for row in rows if not math.isnan(mean_of(row[column]))}, reverse=True)
    marks = dict(zip(ranks, ("best", "second"), strict=False)) if len(rows) > 1 else {}
    return [
        (*row[:column], replace(row[column], mark=marks.get(mean_of(row[column]), "")), *row[column + 1 :])
        for row in rows
    ]


def mean_of(cell: Cell) -> float:
    """The first number of the cell; nan where it has none."""
    mean = cell.values[0]
    return mean if isinstance(mean, float) else math.nan


def block_rows(block: Block, rows: Sequence[Row]) -> Rows:
    return Rows(block.title, (block.dataset, block.backbone), tuple(rows))


# ---------------------------------------------------------------------------------------------------- tables
def same_test_sets(block: Block) -> str:
    """That replicates share test images, in a sentence; "" where each has its own, or it was not recorded."""
    chosen = {key: trial for arm in block.arms for key, trial in arm.chosen.items()}
    known = {trial.provenance.get("test_fingerprint") for trial in chosen.values()}
    if None in known or len(known) >= len(chosen):
        return ""
    sets = f"{len(known)} distinct test set" + "s" * (len(known) > 1)
    return (
        f"{len(chosen)} replicates stand on {sets}: those that share one are not independent, and ± says less about "
        "other images than their number promises."
    )


@dataclass(frozen=True)
class Context:
    """What every table has to say about itself. search: the words for the trials that chose the configurations."""

    blocks: tuple[Block, ...]
    rule: SelectionRule
    budget: Budget
    search: str = ""

    @property
    def baseline(self) -> str | None:
        """The arm that the others are held against; None: no arm is a base term alone."""
        return self.blocks[0].baseline if self.blocks else None

    @property
    def n(self) -> str:
        """Replicates an arm: "3", or "2 to 3" where arms differ."""
        sizes = sorted({len(arm.chosen) for block in self.blocks for arm in block.arms})
        return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"

    def notes(self, *own: str) -> tuple[str, ...]:
        """n, the table's own notes, the selection rule, the budget, the search before it; without arms none but own."""
        configs = [trial.config for block in self.blocks for trial in block.trials]
        if not configs:
            return own
        most = max(config.epochs for config in configs)
        sizes = sorted({size for config in configs if (size := config.to_dict().get("batch_size"))})
        shared = [(block.title, said) for block in self.blocks if (said := same_test_sets(block))]
        return (
            f"n = {self.n} replicates an arm.",
            *(said if len(self.blocks) == 1 else f"{title}: {said}" for title, said in shared),
            *own,
            f"Selection ({self.rule.name}): {self.rule.text}.",
            f"Budget: {self.budget.text}, at most {most} epochs a trial."
            + (f" Batch size {', '.join(map(str, sizes))}." if sizes else ""),
            *([f"Not in this table: {self.search}."] if self.search else []),
        )


def quantities_table(
    context: Context, name: str, title: str, quantities: Sequence[Quantity], notes: Sequence[str]
) -> Table:
    """One row an arm, one column a quantity: the shape of the latent, correlation and epoch tables."""

    def rows(block: Block) -> Sequence[Row]:
        made: Sequence[Row] = [
            (label_cell(arm), *(quantity_cell(arm, q) for q in quantities), count_cell(arm)) for arm in block.arms
        ]
        for number, quantity in enumerate(quantities, start=1):
            made = marked(made, number) if quantity.ranked else made
        return made

    columns = (ARM, *map(quantity_column, quantities), COUNT)
    ranked = ("Bold: the best mean of a block, underlined: the second.",) if any(q.ranked for q in quantities) else ()
    return _table(context, name, title, columns, rows, (SEED_AND_FOLD, COUNTS, *ranked, *notes))


def _table(
    context: Context,
    name: str,
    title: str,
    columns: tuple[Column, ...],
    rows: Callable[[Block], Sequence[Row]],
    notes: Sequence[str],
) -> Table:
    blocks = tuple(block_rows(block, rows(block)) for block in context.blocks)
    return Table(name, title, columns, blocks, context.notes(*notes))


def top1_table(context: Context) -> Table:
    """Test top-1 by arm, with the paired gain over the baseline and the count of collapsed trials."""
    gain, said = "gain [points]", "Gain: none, for no arm is a base term alone."
    if context.baseline is not None:
        gain = f"gain over {context.baseline} [points]"
        said = f"Gain: mean ± deviation of the differences to {context.baseline}, paired by seed and fold."
    columns = (
        ARM,
        quantity_column(TOP1),
        Column(gain, ("gain_mean", "gain_sd", "n_pairs")),
        COUNT,
        Column("collapsed", ("collapsed", "rank_collapsed")),
    )
    choices = {how for block in context.blocks for arm in block.arms for how in arm.choices}
    notes: tuple[str, ...] = (
        SEED_AND_FOLD,
        said,
        COUNTS,
        "Bold: the best mean of a block, underlined: the second.",
        "†k: in k trials the weighting collapsed, the weight of the base term falling under 0.05. ¶k: in k trials the "
        f"test latents collapsed, their effective rank being under {RANK_COLLAPSE:g} of the directions that so many "
        "classes need.",
        *(note for how, (_, note) in NOT_FINISHED.items() if how in choices),
    )
    return _table(context, "top1", "Test top-1 by arm", columns, _top1_rows, notes)


def _top1_rows(block: Block) -> list[Row]:
    baseline = block.arm(block.baseline)
    rows = [
        (
            chosen_cell(arm),
            quantity_cell(arm, TOP1),
            _gain_cell(arm, baseline),
            count_cell(arm),
            _collapsed_cell(arm),
        )
        for arm in block.arms
    ]
    return marked(rows, 1)


def _collapsed_cell(arm: Arm) -> Cell:
    """ "†3 ¶10": of the weights, of the latents' rank."""
    counts = {"†": arm.collapsed, "¶": arm.rank_collapsed}
    text = " ".join(f"{mark}{count}" for mark, count in counts.items() if count)
    return Cell(text or "0", (arm.collapsed, arm.rank_collapsed))


def _gain_cell(arm: Arm, baseline: Arm | None) -> Cell:
    if arm is baseline:
        return Cell("baseline", (None, None, None))
    found = paired_differences(arm.values(TEST), baseline.values(TEST) if baseline else {})
    gains = [100 * difference for difference in found.values()]
    mean, sd = mean_sd(gains)
    text = signed(mean, 1) + ("" if math.isnan(sd) else f" ± {sd:.1f}")
    if 0 < len(gains) < len(arm.chosen):
        text += f" (n = {len(gains)})"
    return Cell(text, (mean, sd, len(gains)))


def latent_table(context: Context) -> Table:
    """NN-hit, silhouette and effective rank of the test latents."""
    notes = (
        "NN-hit: share of fine classes whose nearest other class centroid (Euclidean) has the same coarse class.",
        "Silhouette: over coarse classes, Euclidean, from -1 to 1.",
        "Effective rank: over how many directions the variance of the latents is spread; a few where they collapsed.",
    )
    return quantities_table(context, "latents", "Latent space on test", (NN_HIT, SILHOUETTE, EFFECTIVE_RANK), notes)


def correlation_table(context: Context) -> Table:
    """Correlation of distances in the latent space with those of the label embeddings, at both levels."""
    notes = (
        "Over all pairs of fine (coarse) classes: Euclidean distance between class centroids in the latent space "
        "against cosine distance between the embeddings of the class names.",
    )
    title = "Correlation of latent with semantic distances on test"
    return quantities_table(context, "correlations", title, CORRELATIONS, notes)


def peak_table(context: Context) -> Table:
    """Epochs until validation top-1 peaked."""
    notes = ("The first epoch with the highest validation top-1; fewer is faster, not better.",)
    return quantities_table(context, "epochs", "Epochs to peak validation accuracy", (PEAK,), notes)

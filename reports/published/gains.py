"""What the paper's own tables give when they are added up, and what its text says of them. Needs no records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from scipy import stats

from reports.published import BASELINE, DATASETS, LARESA, Pair, epochs_by_pair, latents_by_pair, top1_by_pair
from reports.statistics import sign_flip_p

FAMILIES = ("ResNet", "ConvNeXt", "ViT")
IN_TABLE_1 = ("ResNet50", "ConvNeXt-B", "ViT-Large-32")  # its rows are table 7's, number by number


@dataclass(frozen=True)
class Gains:
    """Full over ce in points, by pair, and which subset is the best of the eight. Wilcoxon and sign test: two-sided."""

    of: str
    by_pair: dict[Pair, float]
    full_best: int
    other_best: int
    ce_best: int
    ce_over_full: int

    @property
    def mean(self) -> float:
        return fmean(self.by_pair.values())

    @property
    def sign_p(self) -> float:
        """Pairs without a gain or a loss are left out."""
        signs = [gain > 0 for gain in self.by_pair.values() if gain]
        return float(stats.binomtest(sum(signs), len(signs)).pvalue)

    @property
    def wilcoxon_p(self) -> float:
        return float(stats.wilcoxon(list(self.by_pair.values())).pvalue)


def gains(of: str = "all pairs", wanted: Callable[[Pair], bool] = lambda _: True) -> Gains:
    """Table 7, of the pairs asked for."""
    found = {pair: top1 for pair, top1 in top1_by_pair().items() if wanted(pair)}
    best = [max(top1, key=lambda subset: (top1[subset], subset == LARESA)) for top1 in found.values()]
    # Rounded to the table's own decimals: equal gains must be ties.
    by_pair = {pair: round(top1[LARESA] - top1[BASELINE], 2) for pair, top1 in found.items()}
    full, ce = best.count(LARESA), best.count(BASELINE)
    return Gains(of, by_pair, full, len(best) - full - ce, ce, sum(gain < 0 for gain in by_pair.values()))


def all_gains() -> Iterator[Gains]:
    """Overall, of table 1's pairs, by data set, by family."""
    yield gains()
    yield gains("pairs of table 1", lambda pair: pair[0] in IN_TABLE_1)
    for dataset in DATASETS.values():
        yield gains(dataset, _on(dataset))
    for family in FAMILIES:
        yield gains(family, _of(family))


def _on(dataset: str) -> Callable[[Pair], bool]:
    return lambda pair: pair[1] == dataset


def _of(family: str) -> Callable[[Pair], bool]:
    return lambda pair: pair[0].startswith(family)


def p_over_datasets() -> float:
    """Sign-flip p of the data sets' mean gains, three numbers: what is left when pairs that share images count once."""
    means = [found.mean for found in all_gains() if found.of in DATASETS.values()]
    return sign_flip_p(np.array(means), np.random.default_rng(0))


def below_ce() -> tuple[int, int, tuple[Pair, str, float]]:
    """(cells of table 7 under ce, cells beside ce, the lowest: its pair, subset and points to ce)."""
    found = [
        (pair, subset, round(number - top1[BASELINE], 2))
        for pair, top1 in top1_by_pair().items()
        for subset, number in top1.items()
        if subset != BASELINE
    ]
    return sum(points < 0 for *_, points in found), len(found), min(found, key=lambda cell: cell[2])


def best_two() -> int:
    """Pairs of table 7 in which the full objective is among the best two subsets."""
    return sum(sorted(top1.values())[-2] <= top1[LARESA] for top1 in top1_by_pair().values())


def behind_best() -> float:
    """The most points that the full objective lies behind the best subset of a pair."""
    return round(max(max(top1.values()) - top1[LARESA] for top1 in top1_by_pair().values()), 2)


def not_faster() -> tuple[Pair, ...]:
    """The pairs of table 8 in which the full objective needs as many epochs as ce, or more."""
    return tuple(pair for pair, epochs in epochs_by_pair().items() if epochs[LARESA][0] >= epochs[BASELINE][0])


def epochs_saved(family: str) -> float:
    """Mean share of ce's epochs that the full objective saves, in percent; table 8."""
    return fmean(
        100 * (1 - epochs[LARESA][0] / epochs[BASELINE][0])
        for pair, epochs in epochs_by_pair().items()
        if pair[0].startswith(family)
    )


def rises(metric: str) -> dict[Pair, float]:
    """Full minus ce in tables 2 and 3."""
    return {pair: full - ce for pair, (ce, full) in latents_by_pair(metric).items()}


@dataclass(frozen=True)
class Said:
    """where: the section; text: quoted; given: what the table gives."""

    where: str
    text: str
    table: str
    given: str


def said() -> tuple[Said, ...]:
    """What the text says of its results, each with what its own table gives."""
    every, (under, cells, (worst, subset, least)) = gains(), below_ce()
    by_dataset = ", ".join(f"{g.mean:+.2f} on {g.of}" for g in all_gains() if g.of in DATASETS.values())
    slower, pairs = not_faster(), len(epochs_by_pair())
    silhouette, hits = rises("test/silhouette"), rises("test/nn_hit")
    spearman, pearson = rises("test/spearman_coarse"), rises("test/pearson_coarse")
    quadrupled = latents_by_pair("test/nn_hit")["ViT-Large", "TinyImageNet"]
    split: dict[bool, list[float]] = {True: [], False: []}
    for (model, dataset), gain in every.by_pair.items():
        split[dataset == "CUB-200" and not model.startswith("ResNet")].append(gain)
    birds, others = split[True], split[False]
    saved = ", ".join(f"{family} {epochs_saved(family):.0f} %" for family in FAMILIES)
    return (
        Said("Abstract", "delivers substantial accuracy improvements", "7",
             f"No mean gain is stated anywhere. Table 7 gives {every.mean:+.2f} points (median "
             f"{median(every.by_pair.values()):+.2f}, {min(every.by_pair.values()):+.2f} to "
             f"{max(every.by_pair.values()):+.2f}): {by_dataset}."),
        Said("4.1", "configurations that incorporate semantic or geometric supervision consistently outperform the "
             "cross-entropy baseline", "7",
             f"{under} of {cells} cells lie under their ce, the lowest by {-least:.2f} points ({', '.join(worst)}, "
             f"{subset})."),
        Said("4.1", "generally achieves the highest or near-highest accuracy", "7",
             f"The best of the eight in {every.full_best} of {len(every.by_pair)} pairs, among the best two in "
             f"{best_two()}, at most {behind_best():.2f} points behind; another subset is the best in "
             f"{every.other_best}, ce in {every.ce_best}, and ce is over full in {every.ce_over_full}."),
        Said("4.1", "often reduces the number of epochs needed to reach peak validation accuracy, particularly for "
             "ConvNeXt and ViT backbones, while ResNets see more modest gains", "8",
             f"Fewer in {pairs - len(slower)} of {pairs} pairs; mean share of epochs saved: {saved}. Not fewer: "
             f"{'; '.join(map(', '.join, slower))}."),
        Said("4.3", "substantially improves both metrics across nearly all Model:Dataset pairs", "2",
             f"Silhouette is higher in {_higher(silhouette)}, NN-hit in {_higher(hits)}."),
        Said("4.3", "NN-HR nearly quadrupling from 12.00% to 43.50%", "2",
             f"It is {quadrupled[1] / quadrupled[0]:.1f} times as high."),
        Said("4.3", "CUB-200 results, where ConvNeXt and ViT display large gains in NN-HR despite marginal accuracy "
             "differences", "7",
             f"There the gains in top-1 are {min(birds):+.2f} to {max(birds):+.2f} points; in all other pairs "
             f"{min(others):+.2f} to {max(others):+.2f}."),
        Said("4.4", "both Spearman and Pearson correlations consistently improve with LARESA", "3",
             f"Spearman is higher in {_higher(spearman)}, by {min(spearman.values()):.3f} at least, Pearson in "
             f"{_higher(pearson)}, by {min(pearson.values()):.3f} at least."),
        Said("App. A", "29 experimental configurations in total", "7",
             f"Nine backbones on three data sets are {len(every.by_pair)}."),
        Said("App. I", "less training epochs achieve the same peak validation performance or even higher compared to "
             "CE", "8",
             "Table 8 counts epochs to each arm's own peak and has no validation accuracy: whether ce's peak is "
             "reached sooner can't be read from it."),
        Said("Table 1", "consistent accuracy gains while also reducing training runtime (Runtime statistics in "
             "Appendix E)", "8",
             f"Epochs, no time; not fewer in {len(slower)} of {pairs} pairs. Neither seconds nor energy are given by "
             "arm: App. A has 2 to 8 hours an experiment, on two kinds of GPU."),
    )  # fmt: skip


def _higher(found: dict[Pair, float]) -> str:
    return f"{sum(rise > 0 for rise in found.values())} of {len(found)}"

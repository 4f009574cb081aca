"""The paper's published numbers added up: gains of the full objective, and claims beside what the tables give."""

from __future__ import annotations

from reports.formats import Cell, Column, Rows, Table, probability, signed
from reports.published import DATASETS
from reports.published.gains import Gains, Said, all_gains, gains, p_over_datasets, said
from reports.statistics import smallest_p
from reports.tables import Row


def gains_table() -> Table:
    """Of table 7: how much the full objective gains over ce, how often it is the best, and what one seed can say."""
    columns = (
        Column("pairs of", ("of",), "l"),
        Column("pairs", ("n_pairs",)),
        Column("mean gain [points]", ("gain_mean",)),
        Column("least to most", ("gain_least", "gain_most")),
        Column("full is best", ("n_full_best",)),
        Column("another is best", ("n_other_best",)),
        Column("ce is best", ("n_ce_best",)),
        Column("ce over full", ("n_ce_over_full",)),
        Column("p (sign)", ("p_sign",)),
        Column("p (Wilcoxon)", ("p_wilcoxon",)),
    )
    every = gains()
    gained = sum(gain > 0 for gain in every.by_pair.values())
    verdict = (
        f"Each pair is one seed, so the gain of one pair can't be told from the noise of its seed. {gained} of "
        f"{len(every.by_pair)} pairs gain (sign test p = {every.sign_p:.1e}, Wilcoxon {every.wilcoxon_p:.1e}), but "
        "pairs are not independent: those of a data set share its images, and all share the seed. With a data set "
        f"counted once p is {p_over_datasets():.2f}, and three can give no less than {smallest_p(len(DATASETS)):.2f}."
    )
    notes = (
        "Recomputed from table 7 of the paper, no run of ours in it. Gain: full minus ce, published numbers.",
        "Best: the highest of the eight subsets; another: neither ce nor full. p: two-sided, over the pairs of the "
        f"row; those of a data set ({', '.join(DATASETS.values())}) share their test images, those of a family their "
        "kind of network, so p is too small.",
    )
    block = Rows("table 7", (), tuple(_gains_row(found) for found in all_gains()))
    return Table("published-gains", "The paper's gains, recomputed", columns, (block,), notes, (), verdict)


def _gains_row(g: Gains) -> Row:
    counts = (g.full_best, g.other_best, g.ce_best, g.ce_over_full)
    least, most = min(g.by_pair.values()), max(g.by_pair.values())
    return (
        Cell(g.of, (g.of,)),
        Cell(str(len(g.by_pair)), (len(g.by_pair),)),
        Cell(signed(g.mean, 2), (g.mean,)),
        Cell(f"{signed(least, 2)} to {signed(most, 2)}", (least, most)),
        *(Cell(str(count), (count,)) for count in counts),
        Cell(probability(g.sign_p), (g.sign_p,)),
        Cell(probability(g.wilcoxon_p), (g.wilcoxon_p,)),
    )


def claims_table() -> Table:
    """What the paper's text says beside what its tables give."""
    columns = (
        Column("section", ("section",), "l"),
        Column("the text says", ("text",), "wrap"),
        Column("table", ("table",)),
        Column("the table gives", ("given",), "wrap"),
    )
    block = Rows("LARESA", (), tuple(map(_said_row, said())))
    notes = ("Recomputed from the published tables, no run of ours in it; the text is quoted.",)
    return Table("published-claims", "The paper's words beside its own tables", columns, (block,), notes, ())


def _said_row(s: Said) -> Row:
    return tuple(Cell(text, (text,)) for text in (s.where, f"“{s.text}”", s.table, s.given))

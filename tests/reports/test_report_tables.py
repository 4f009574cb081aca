"""Tables of hand-made records, cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports import beside, comparison_tables, comparisons, failures, tables
from reports.claims import Design
from reports.formats import to_csv, to_latex, to_markdown
from reports.mistakes import mistakes_tables
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import FULL, by_hand, column, context, found_against_base, record, study, unheard


# ------------------------------------------------------------------------------------------------ exact cells
def test_top1_in_markdown() -> None:
    lines = to_markdown(tables.top1_table(context(by_hand()))).splitlines()
    assert lines[:7] == [
        "**Test top-1 by arm (emoji120, test_resnet)**",
        "",
        "| arm | test top-1 [%] | gain over ce [points] | ok | collapsed |",
        "| :--- | ---: | ---: | ---: | ---: |",
        "| ce | <u>52.0 ± 2.0</u> | baseline | 3/3 | 0 |",
        "| ce+anchor | 50.0 ± 0.0 | −1.0 ± 1.4 | 2/3 | 0 |",
        "| ce+anchor+triplet+reg | **54.0 ± 3.0** | +2.0 ± 1.0 | 3/3 | †2 |",
    ]


def test_top1_in_csv() -> None:
    assert to_csv(tables.top1_table(context(by_hand()))).splitlines() == [
        "dataset,backbone,arm,top1_mean,top1_sd,gain_mean,gain_sd,n_pairs,n,n_ok,n_total,collapsed,rank_collapsed",
        "emoji120,test_resnet,ce,52,2,,,,3,3,3,0,0",
        "emoji120,test_resnet,ce+anchor,50,0,-1,1.41421,2,2,2,3,0,0",
        "emoji120,test_resnet,ce+anchor+triplet+reg,54,3,2,1,3,3,3,3,2,0",
    ]


def test_top1_in_latex() -> None:
    lines = to_latex(tables.top1_table(context(by_hand()))).splitlines()
    assert r"\caption{Test top-1 by arm (emoji120, test\_resnet)}" in lines
    assert r"ce & \underline{52.0 $\pm$ 2.0} & baseline & 3/3 & 0 \\" in lines
    assert r"ce+anchor+triplet+reg & \textbf{54.0 $\pm$ 3.0} & +2.0 $\pm$ 1.0 & 3/3 & $\dagger$2 \\" in lines


def test_an_arm_without_a_finished_trial_in_its_search_is_marked() -> None:
    said = {"ce": "finished", "ce+anchor": "pruned", "ce+reg": "given"}
    records = [record(arm, 0.5, seed=seed, provenance={"chosen": how}) for arm, how in said.items() for seed in (0, 1)]
    table = tables.top1_table(context(records))
    text = to_markdown(table)
    for words in ("| ce | ", "| ce+anchor ‡ |", "| ce+reg § |", "‡: no trial of the arm's search finished;", "§: no"):
        assert words in text
    assert r"ce+anchor $\ddagger$ &" in to_latex(table)
    assert ",ce+anchor,50," in to_csv(table)  # machines get the arm's own name
    assert "‡" not in to_markdown(tables.top1_table(context(by_hand())))


def test_every_table_says_n_plus_minus_rule_and_budget() -> None:
    made, found = found_against_base(by_hand())
    several = [
        tables.top1_table(made),
        tables.latent_table(made),
        tables.correlation_table(made),
        tables.peak_table(made),
        comparison_tables.baseline_table(made, found),
    ]
    for table in several:
        text = to_markdown(table) if table else ""
        assert "n = 2 to 3 replicates an arm." in text
        assert "ddof 1" in text
        assert "Selection (best validation epoch): each trial is measured on test once" in text
        assert (
            "Budget: 9 trials, 0 epochs, 16 s of training in total, at most 10 epochs a trial. Batch size 128." in text
        )


def test_one_replicate_has_no_deviation() -> None:
    table = tables.top1_table(context([record("ce", 0.5), record("ce+reg", 0.6)]))
    assert column(table, "test top-1 [%]") == ["50.0", "60.0"]
    assert column(table, "gain over ce [points]") == ["baseline", "+10.0"]


def test_a_gain_is_paired_and_says_when_pairs_are_fewer() -> None:
    trials = [record("ce", 0.5, seed=0), *(record("ce+reg", t, seed=s) for s, t in enumerate((0.6, 0.9)))]
    assert column(tables.top1_table(context(trials)), "gain over ce [points]") == ["baseline", "+10.0 (n = 1)"]


def test_without_the_baseline_there_is_no_gain() -> None:
    table = tables.top1_table(context([record("ce+reg", 0.5)]))
    assert column(table, "gain [points]") == ["–"]
    assert "Gain: none, for no arm is a base term alone." in table.notes
    made, found = found_against_base([record("ce+reg", 0.5), record("ce+anchor", 0.5)])
    assert comparison_tables.baseline_table(made, found) is None


def test_every_arm_is_held_against_the_studys_own_base_term() -> None:
    made = context(unheard(), order=("own_base", "own_base+unheard"))
    assert column(tables.top1_table(made), "gain over own_base [points]") == ["baseline", "+10.0 ± 0.0", "+20.0 ± 0.0"]
    table = comparison_tables.baseline_table(
        made, comparisons.against_baseline(made.blocks, Design(), np.random.default_rng(0))
    )
    assert table is not None
    assert table.title == "Test top-1 against own_base"
    assert column(table, "against") == ["own_base", "own_base"]


def test_equal_means_share_the_mark_and_a_single_row_has_none() -> None:
    trials = [record("ce", 0.5), record("ce+reg", 0.5), record("ce+anchor", 0.4)]
    (block,) = tables.top1_table(context(trials)).blocks
    assert [row[1].mark for row in block.rows] == ["best", "best", "second"]
    (block,) = tables.top1_table(context([record("ce", 0.5)])).blocks
    assert block.rows[0][1].mark == ""


def test_a_missing_metric_is_a_dash_in_text_and_empty_in_csv() -> None:
    trials = [record("ce", 0.5, seed=s, metrics={"test/nn_hit": math.nan}) for s in (0, 1)]
    trials += [record("ce+reg", 0.5, seed=0, metrics={"test/nn_hit": 0.25}), record("ce+reg", 0.5, seed=1)]
    table = tables.latent_table(context(trials))
    assert column(table, "NN-hit [%]") == ["–", "25.0 (n = 1)"]
    assert to_csv(table).splitlines()[1:] == [
        "emoji120,test_resnet,ce,,,,,,,2,2,2",
        "emoji120,test_resnet,ce+reg,25,,,,,,2,2,2",
    ]
    assert "nan" not in to_markdown(table) + to_latex(table) + to_csv(table)
    assert "--" in to_latex(table)


def test_several_blocks_have_a_row_of_their_own() -> None:
    table = tables.peak_table(context([record("ce", 0.5), record("ce", 0.5, dataset="cifar100")]))
    assert "| *emoji120, test_resnet* |  |  |" in to_markdown(table)
    assert r"\multicolumn{3}{l}{\textit{cifar100, test\_resnet}} \\" in to_latex(table)
    assert [line.split(",")[0] for line in to_csv(table).splitlines()] == ["dataset", "emoji120", "cifar100"]
    assert table.caption == "Epochs to peak validation accuracy"


def test_failures_by_state_with_the_errors_first_line() -> None:
    trials = [
        *by_hand(),
        record("ce+anchor", None, seed=5, state="failed", error="OSError: disk | full\nelse"),
        record("ce+anchor", None, seed=6, state="failed", error="Traceback (most recent call last):\n  x\nKeyError: 1"),
        record("ce+anchor", 0.9, seed=7, state="pruned"),
        record("ce+anchor", math.nan, seed=8),
    ]
    table = failures.table(context(trials))
    assert [column(table, state)[1] for state in ("finished", "pruned", "failed", "no test result")] == list("3131")
    assert column(table, "first line of the error") == ["–", "2 × OSError: disk | full; 1 × KeyError: 1", "–"]
    assert r"2 × OSError: disk \| full; 1 × KeyError: 1 |" in to_markdown(table)


# ------------------------------------------------------------------------------------------------ comparisons
def test_three_pairs_get_no_star_and_are_told_so() -> None:
    made, found = found_against_base(by_hand())
    table = comparison_tables.baseline_table(made, found)
    assert table is not None
    assert column(table, "pairs") == ["2", "3"]
    assert column(table, "difference [points]") == ["−1.0 ± 1.4", "+2.0 ± 1.0"]
    assert column(table, "95 % interval") == ["−13.7 to +11.7", "−0.5 to +4.5"]
    assert column(table, "p, these sets") == ["1.000", "0.250"]
    assert column(table, "p (Holm)") == ["1.000", "0.500"]
    assert column(table, "test sets") == ["1", "1"]
    assert column(table, "p, new sets") == ["–", "–"]
    assert table.verdict == (
        "n too small: with n = 3 the smallest p this test can give is 0.25, so no difference, however large, can be "
        "significant at .05: that takes 6 pairs for one comparison and 7 for 2 of them."
    )
    assert table.verdict in to_markdown(table)


def six_pairs(arms: tuple[str, ...]) -> list[TrialRecord]:
    gains = (0.01, 0.02, 0.03, 0.015, 0.025, 0.035)
    return [record("ce", 0.5, seed=s) for s in range(6)] + [
        record(arm, 0.5 + gain, seed=s) for arm in arms for s, gain in enumerate(gains)
    ]


def test_six_pairs_can_be_significant_alone() -> None:
    made, found = found_against_base(six_pairs(("ce+reg",)))
    table = comparison_tables.baseline_table(made, found)
    assert table is not None
    assert column(table, "p (Holm)") == ["0.031* (these sets)"]
    assert table.verdict == "*: p (Holm) at most .05."


def test_six_pairs_can_not_be_significant_among_seven() -> None:
    arms = ("ce+reg", "ce+anchor", "ce+anchor+reg", "ce+triplet", "ce+triplet+reg", "ce+anchor+triplet", FULL)
    made, found = found_against_base(six_pairs(arms))
    table = comparison_tables.baseline_table(made, found)
    assert table is not None
    assert column(table, "p, these sets") == ["0.031"] * 7
    assert column(table, "p (Holm)") == ["0.219"] * 7
    assert table.verdict == (
        "With n = 6 pairs the smallest p this test can give is 0.031; over 7 comparisons Holm makes that 0.22, so no "
        "row can be significant at .05: that takes 9 pairs."
    )


def test_controls_and_remedies_are_compared_with_the_arm_they_vary() -> None:
    trials = [record(FULL, 0.6), record(f"{FULL}, shuffled labels", 0.5, shuffle_labels=True), record("ce", 0.1)]
    made = context(trials)
    found = comparisons.variants(made.blocks, Design(), np.random.default_rng(0))
    assert [(c.arm, c.against, c.mean) for c in found] == [(f"{FULL}, shuffled labels", FULL, pytest.approx(-10))]
    assert comparison_tables.variants_table(made, []) is None


def test_equal_accuracies_differ_by_nothing_at_all() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point; as a difference it would count as a sign."""
    trials = [record("ce", 0.3, seed=s) for s in range(3)] + [record("ce+reg", 0.1 + 0.2, seed=s) for s in range(3)]
    _, (found,) = found_against_base(trials)
    assert (found.mean, found.main.p) == (0.0, 1.0)


def test_pooled_over_blocks() -> None:
    trials = [record("ce", 0.5, seed=s, dataset=d) for s in (0, 1) for d in ("a", "b")]
    trials += [record("ce+reg", top1, seed=s, dataset="a") for s, top1 in enumerate((0.51, 0.53))]
    trials += [record("ce+reg", top1, seed=s, dataset="b") for s, top1 in enumerate((0.52, 0.56))]
    made, found = found_against_base(trials)
    table = comparison_tables.pooled_table(made, found)
    assert table is not None
    assert column(table, "difference [points]") == ["+3.0"]
    assert column(table, "95 % interval") == ["−11.2 to +17.2"]
    assert column(table, "sd within a pair") == ["2.2"]
    assert column(table, "I² [%]") == ["0"]
    assert column(table, "p (pairs differ)") == ["0.465"]  # F(1, 2) = (4 / 1) / (10 / 2)
    assert comparison_tables.pooled_table(made, found[:1]) is None


# ------------------------------------------------------------------------------------------------ beside ours
def test_plan_against_actual() -> None:
    table = beside.plan_table(context(by_hand()), {"trials": (9, 8), "seconds": (100.0, 125.5), "retries": (0, 2)})
    assert to_csv(table).splitlines() == [
        "quantity,planned,actual,ratio",
        "trials,9,8,0.888889",
        "seconds,100,125.5,1.255",
        "retries,0,2,",
    ]
    assert "| retries | 0 | 2 | – |" in to_markdown(table)


def test_no_cell_of_a_large_study_says_nan() -> None:
    made, found = found_against_base(study(2, 8))
    for table in (
        tables.top1_table(made),
        tables.correlation_table(made),
        comparison_tables.baseline_table(made, found),
    ):
        assert table is not None
        assert "nan" not in to_markdown(table)
        assert len(table.blocks[0].rows) == 10 - (table.name == "comparisons")


# ------------------------------------------------------------------------------------------------ mistakes in the tree
def in_a_tree(levels: int, **more: float) -> dict[str, float]:
    plain = {
        "test/top5": 0.875,
        "test/mistake_severity": 1.5,
        "test/hierarchical_distance": 0.75,
        "test/hierarchical_distance_at5": 2.25,
        "test/hierarchical_distance_at20": 3.0,
        "test/sibling_accuracy": 0.625,
        **{f"test/top1_level{level}": 0.5 + level / 8 for level in range(1, levels + 1)},
    }
    crm = {f"{name}_crm": value / 2 for name, value in plain.items()}
    return {**plain, **crm, "test/top1_crm": 0.25, **more}


def test_mistakes_are_told_of_both_decisions_and_never_without_top1() -> None:
    trials = [record("ce", 0.5, seed=seed, metrics=in_a_tree(2)) for seed in (0, 1)]
    trials += [record("ce+reg", 0.75, metrics=in_a_tree(1))]
    plain, crm = mistakes_tables(context(trials))
    assert (plain.name, crm.name) == ("mistakes", "mistakes-crm")
    assert to_csv(plain).splitlines()[1:] == [
        "emoji120,test_resnet,ce,50,0,87.5,0,1.5,0,0.75,0,2.25,0,3,0,62.5,0,62.5,0,75,0,2,2,2",
        "emoji120,test_resnet,ce+reg,75,,87.5,,1.5,,0.75,,2.25,,3,,62.5,,62.5,,,,1,1,1",
    ]
    assert column(crm, "top-1 [%]") == ["25.0 ± 0.0", "25.0"]
    assert column(crm, "severity") == ["0.75 ± 0.00", "0.75"]
    for table in (plain, crm):
        titles = [c.title for c in table.columns]
        assert titles.index("severity") > titles.index("top-1 [%]") > 0
        assert "falls when mild mistakes are ADDED" in to_markdown(table)
        assert [c.title for c in table.columns if c.title.startswith("level")] == ["level 1 [%]", "level 2 [%]"]
    (block,) = plain.blocks
    assert [cell.mark for cell in block.rows[0]] == ["", "second"] + [""] * 9  # a low severity is no merit by itself


def test_without_a_tree_no_mistakes_are_told() -> None:
    flat = dict.fromkeys(in_a_tree(0), math.nan)
    assert mistakes_tables(context([record("ce", 0.5), record("ce+reg", 0.5, metrics=flat)])) == ()
    assert mistakes_tables(context([record("ce", 0.5, metrics=in_a_tree(0))]))

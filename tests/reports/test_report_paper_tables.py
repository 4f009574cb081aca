"""The paper's tables of hand-made records, and what the paper's own numbers say."""

from __future__ import annotations

import csv
import io
import math
import re

import numpy as np
import pytest

from laresa.config import SUBSETS
from laresa.measurement import Measurement
from reports import comparisons, paper_gains, paper_tables, reach
from reports.claims import Design
from reports.formats import Table, to_csv, to_markdown
from reports.published import gains, published
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import FULL, column, context, record, study

WHERE = {"dataset": "cifar100", "backbone": "resnet50"}


def drawn(records: list[TrialRecord]) -> dict[str, Table]:
    """By name."""
    made = context(records)
    found = comparisons.against_baseline(made.blocks, Design(), np.random.default_rng(0))
    return {table.name: table for table in paper_tables.made(made, found)}


def three_seeds(**where: str) -> list[TrialRecord]:
    """ce 76, 77, 78; full 76, 78, 80."""
    found = {"ce": (0.76, 0.77, 0.78), FULL: (0.76, 0.78, 0.80)}
    return [record(arm, t, seed=s, **(where or WHERE)) for arm, top1 in found.items() for s, t in enumerate(top1)]


# ------------------------------------------------------------------------------------------------ published numbers
def test_published_numbers_are_found_under_our_names() -> None:
    numbers = published("cifar100", "resnet50.a1_in1k")
    assert numbers["ce", "test/top1"] == 76.55
    assert numbers[FULL, "test/silhouette"] == 0.2476
    assert numbers[FULL, "test/pearson_coarse"] == 0.5916
    assert numbers["ce", "best_epoch"] == 223
    assert published("CUB-200", "vit_large_patch32_224")[FULL, "test/nn_hit"] == 93.0
    assert published("tiny-imagenet", "convnext_base.fb_in1k")["ce", "test/spearman_coarse"] == 0.0256


def test_published_numbers_are_complete_and_nothing_else_is_in_the_paper() -> None:
    models = ["resnet50", "resnet101", "resnet152", "convnext_small", "convnext_base", "convnext_large"]
    models += [f"vit_{size}_patch32_224" for size in ("small", "base", "large")]
    sizes = [len(published(d, m)) for d in ("cifar100", "cub200", "tinyimagenet") for m in models]
    assert sorted(sizes) == [10] * 18 + [18] * 9  # 8 top-1 and 2 epochs; three models also have 8 latent metrics
    assert published("emoji120", "resnet50") == published("cifar100", "vit_large_patch16_224") == {}


# ------------------------------------------------------------------------------------------------ tables 7 and 1
def test_top1_stands_over_the_papers_row() -> None:
    table = drawn(three_seeds())["paper-top1"]
    assert to_markdown(table).splitlines()[2:6] == [
        "| row | ce | +reg | +anchor | +anchor+reg | +triplet | +triplet+reg | +anchor+triplet | full "
        "| gain of full [points] | 95 % interval | n |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ours | <u>77.0 ± 1.0</u> | – | – | – | – | – | – | **78.0 ± 2.0** | +1.0 ± 1.0 | −1.5 to +3.5 | 3 |",
        "| paper | 76.55 | 76.38 | 73.18 | 75.49 | 76.88 | <u>77.25</u> | 75.72 | **77.49** | +0.94 | – | 1 |",
    ]


def test_weights_that_are_not_the_papers_are_named() -> None:
    large = "vit_large_patch32_384.orig_in21k_ft_in1k"
    pair = [record(arm, 0.6, dataset="cub200", backbone=large) for arm in ("ce", FULL)]
    assert f"{large}: weights of ImageNet-21k first; the paper says ImageNet-1k." in drawn(pair)["paper-top1"].notes
    assert not any("ImageNet-21k" in note for note in drawn(three_seeds())["paper-top1"].notes)


def test_nothing_is_drawn_for_what_is_not_in_the_paper() -> None:
    assert drawn([record("ce", 0.5), record(FULL, 0.6)]) == {}
    assert drawn([record("ce", 0.5, dataset="cifar100", backbone="test_resnet")]) == {}
    tables = drawn([*three_seeds(), record("ce", 0.5)])
    ours = {name: table for name, table in tables.items() if name.startswith("paper-")}
    assert all([block.title for block in table.blocks] == ["cifar100, resnet50"] for table in ours.values())


def test_the_papers_row_in_csv_has_what_ours_predicts() -> None:
    ours, paper = csv.DictReader(io.StringIO(to_csv(drawn(three_seeds())["paper-top1"])))
    assert (ours["row"], ours["top1_full"], ours["top1_full_sd"], ours["top1_full_n"]) == ("ours", "78", "2", "3")
    half = 4.302652729911275 * 2 * (1 + 1 / 3) ** 0.5  # t of two degrees of freedom
    assert float(ours["top1_full_predicted_low"]) == pytest.approx(78 - half, rel=1e-5)
    assert [paper[k] for k in ("row", "top1_full", "top1_ce_reg", "gain")] == ["paper", "77.49", "76.38", "0.94"]
    assert paper["top1_full_sd"] == paper["top1_full_predicted_low"] == ours["top1_ce_reg"] == ""


def test_a_number_outside_what_one_more_run_would_give_is_marked() -> None:
    table = drawn([record("ce", t, seed=s, **WHERE) for s, t in enumerate((0.50, 0.501, 0.502))])["paper-top1"]
    assert column(table, "ce") == ["50.1 ± 0.1", "76.55 !"]
    assert column(table, "full") == ["–", "77.49"]  # nothing of ours, nothing to differ from
    assert column(table, "gain of full [points]") == ["–", "+0.94"]
    assert "1 of 1 published cells are marked; of runs just like ours 1 in 20 would be." in table.notes
    assert "0 of 2 published cells are marked" in to_markdown(drawn(three_seeds())["paper-top1"])


def test_of_one_run_there_is_no_interval_and_the_table_says_so() -> None:
    tables = drawn([record("ce", 0.5, **WHERE), record(FULL, 0.9, **WHERE)])
    table = tables["paper-top1"]
    assert column(table, "full") == ["90.0", "77.49"]
    assert column(table, "gain of full [points]") == ["+40.0", "+0.94"]
    assert column(table, "95 % interval") == ["–", "–"]
    for name in ("paper-top1", "paper-latents", "paper-correlations", "paper-epochs"):
        assert "One run of ours stands beside one run of the paper" in tables[name].verdict
        assert "can be told from the noise of the seed" in tables[name].verdict
        assert "!" not in "".join(cell.text for block in tables[name].blocks for row in block.rows for cell in row)
        assert "cells are marked" not in to_markdown(tables[name])
    assert drawn(three_seeds())["paper-top1"].verdict == ""
    mixed = [*three_seeds(), record("ce", 0.5, dataset="cub200", backbone="resnet50")]
    assert drawn(mixed)["paper-top1"].verdict.startswith("cub200, resnet50: One run of ours")
    alone = [curve("ce", 0, 0.5), curve(FULL, 0, 0.6)]
    assert drawn(alone)["paper-reach"].verdict.startswith("One run of each arm")


def test_arms_with_unequal_replicates_say_how_many() -> None:
    records = [*three_seeds(), record("ce+reg", 0.5, metrics={"test/silhouette": 0.5}, **WHERE)]
    records += [record("ce", 0.5, seed=7, metrics={"test/silhouette": 0.5}, **WHERE)]
    tables = drawn(records)
    assert column(tables["paper-top1"], "n") == ["1 to 4", "1"]
    assert column(tables["paper-latents"], "silhouette, ce") == ["0.500 (n = 1)", "0.0755"]


def test_a_variant_is_not_the_papers_subset() -> None:
    records = [record(f"{FULL}, shuffled labels", 0.5, **WHERE)]
    assert {*drawn(records)} <= {"published-gains", "published-claims", "paper-reach"}


# ------------------------------------------------------------------------------------------------ tables 2, 3, 8
LATENT = {
    "test/silhouette": 0.05,
    "test/nn_hit": 0.5,
    "test/nn_hit_predicted": 0.625,
    "test/spearman_coarse": 0.25,
    "test/pearson_coarse": 0.375,
    "best_epoch": 200.0,
}


def measured(dataset: str = "cifar100", backbone: str = "resnet50") -> list[TrialRecord]:
    where = {"dataset": dataset, "backbone": backbone}
    return [record(arm, 0.5, seed=s, metrics=LATENT, **where) for arm in ("ce", FULL) for s in (0, 1)]


def test_latents_have_both_readings_of_nn_hit_over_one_published_number() -> None:
    table = drawn(measured())["paper-latents"]
    assert column(table, "silhouette, ce") == ["0.050 ± 0.000", "0.0755 !"]
    assert column(table, "NN-hit [%], full") == ["50.0 ± 0.0", "93.0 !"]
    assert column(table, "NN-hit, predicted classes [%], full") == ["62.5 ± 0.0", "93.0 !"]
    assert "Eq. 7 sums over K predicted classes" in to_markdown(table)
    assert drawn(measured(backbone="resnet101")).keys() == {  # of which table 2 and 3 have nothing
        *("paper-top1", "published-gains", "published-claims", "paper-epochs")
    }


def test_correlations_are_the_coarse_ones() -> None:
    table = drawn(measured("cub200", "vit_large_patch32_224"))["paper-correlations"]
    assert [c.title for c in table.columns] == [
        *("row", "Spearman, coarse, ce", "Spearman, coarse, full", "Pearson, coarse, ce", "Pearson, coarse, full", "n"),
    ]
    assert [cell.text for cell in table.blocks[0].rows[1]] == [
        *("paper", "0.0750 !", "0.5414 !", "0.1830 !", "0.6586 !", "1"),
    ]


def test_coarse_numbers_of_tinyimagenet_are_not_comparable() -> None:
    tables = drawn(measured("tinyimagenet", "convnext_base"))
    for name in ("paper-latents", "paper-correlations"):
        assert column(tables[name], "row") == ["ours", "paper (not comparable)"]
        assert "!" not in "".join(cell.text for row in tables[name].blocks[0].rows for cell in row)
        assert "95 names in the paper's mapping are no classes of this data set, which has 200" in to_markdown(
            tables[name]
        )
        assert ",paper,0," in to_csv(tables[name])
    assert column(tables["paper-epochs"], "row") == ["ours", "paper"]
    assert "not comparable" not in to_markdown(drawn(measured())["paper-latents"])


def test_epochs_name_the_papers_plus_minus_and_where_full_is_not_faster() -> None:
    table = drawn(measured("tinyimagenet", "convnext_base.fb_in1k"))["paper-epochs"]
    assert column(table, "epochs to peak, ce") == ["200.0 ± 0.0", "103 ± 4 !"]
    assert column(table, "epochs to peak, full") == ["200.0 ± 0.0", "106 ± 6 !"]
    text = to_markdown(table)
    assert "so its ± is no deviation over seeds" in text
    assert (
        "In 4 of 27 pairs of table 8 the full objective is NOT faster: ResNet50 on CIFAR-100, ResNet101 on CIFAR-100, "
        "ResNet152 on CIFAR-100, ConvNeXt-B on TinyImageNet." in text
    )


# ------------------------------------------------------------------------------------------------ epochs to ce's peak
def curve(arm: str, seed: int, *top1: float, seconds: float = 2.0) -> TrialRecord:
    history = tuple(Measurement(e, {"val/top1": t}, seconds) for e, t in enumerate(top1, start=1))
    return record(arm, max(top1), seed=seed, history=history, **WHERE)


def test_epochs_to_ces_peak_are_paired_and_count_who_never_reached_it() -> None:
    records = [curve("ce", s, 0.1, 0.3, 0.2, 0.5, 0.5) for s in (0, 1, 2)]
    records += [curve(FULL, 0, 0.2, 0.5, seconds=3), curve(FULL, 1, 0.4, 0.4, 0.6, seconds=3), curve(FULL, 2, 0.49)]
    records += [curve("ce+reg", 0, 0.4), curve("ce+reg", 1, 0.4, 0.7), curve("ce+anchor", 5, 0.9)]
    table = drawn(records)["paper-reach"]
    assert [[cell.text for cell in row] for row in table.blocks[0].rows] == [
        ["ce", "4", "100", "8", "100", "0 of 3"],
        [FULL, "3", "75", "9", "112", "1 of 3"],
        ["ce+reg", "never in 1 of 2", "–", "–", "–", "1 of 2"],  # ce+anchor has no pair
    ]
    assert to_csv(table).splitlines()[3] == "cifar100,resnet50,ce+reg,,,,,1,2"
    assert "never reached it: it counts as later than all that did" in to_markdown(table)
    assert "energy" not in " ".join(c.title for c in table.columns)


def test_energy_is_there_where_a_gpu_counted_it_and_missing_where_an_epoch_did_not() -> None:
    def counted(arm: str, *epochs: tuple[float, float]) -> TrialRecord:
        rows = enumerate(epochs, start=1)
        history = tuple(Measurement(e, {"val/top1": t, "energy/joules": j}, 1.0) for e, (t, j) in rows)
        return record(arm, 0.5, history=history, **WHERE)

    records = [counted("ce", (0.1, 3000), (0.5, 1000)), counted(FULL, (0.6, 2000)), curve("ce+reg", 0, 0.7)]
    table = drawn(records)["paper-reach"]
    assert [column.title for column in table.columns][5:7] == ["kJ", "of ce's energy [%]"]
    assert [[cell.text for cell in row[5:7]] for row in table.blocks[0].rows] == [["4", "100"], ["2", "50"], ["–", "–"]]


def test_epochs_without_a_validation_are_passed_over() -> None:
    epochs: tuple[dict[str, float], ...] = ({}, {"val/top1": math.nan}, {"val/top1": 0.5})
    history = tuple(Measurement(number, metrics, 1.0) for number, metrics in enumerate(epochs, start=1))
    assert reach.first_at(record(history=history), 0.5)[:2] == (3.0, 3.0)
    assert reach.first_at(record(history=history), 0.6) == (math.inf,) * 3
    assert "paper-reach" not in drawn(three_seeds())  # no history


# ------------------------------------------------------------------------------------------------ the paper alone
def test_gains_are_recomputed_cell_by_cell() -> None:
    models = ["resnet50", "resnet101", "resnet152", "convnext_small", "convnext_base", "convnext_large"]
    models += [f"vit_{size}_patch32_224" for size in ("small", "base", "large")]
    found = [published(d, m) for d in ("cifar100", "cub200", "tinyimagenet") for m in models]
    points = [n[FULL, "test/top1"] - n["ce", "test/top1"] for n in found]
    best = [max(SUBSETS, key=lambda s: n[s, "test/top1"]) for n in found]
    every = gains.gains()
    assert every.mean == pytest.approx(np.mean(points))
    assert (every.full_best, every.other_best, every.ce_best) == (
        *(best.count(FULL), len(best) - best.count(FULL) - best.count("ce"), best.count("ce")),
    )
    assert (every.full_best, every.other_best) == (15, 12)
    assert sum(p < 0 for p in points) == every.ce_over_full == 0
    by_name = {g.of: g for g in gains.all_gains()}
    assert by_name["CUB-200"].mean == pytest.approx(np.mean(points[9:18]))
    assert by_name["ViT"].mean == pytest.approx(np.mean([p for i, p in enumerate(points) if i % 9 > 5]))


def test_gains_in_the_table() -> None:
    lines = to_csv(paper_gains.gains_table()).splitlines()
    assert lines[1].startswith("all pairs,27,3.3163,0.89,9.1,15,12,0,0,1.49")
    assert lines[2].startswith("pairs of table 1,9,3.37667,0.94,7.39,5,4,0,0,0.00390625,")
    assert [line.split(",")[0] for line in lines[3:]] == [
        *("CIFAR-100", "CUB-200", "TinyImageNet", "ResNet", "ConvNeXt", "ViT"),
    ]
    verdict = paper_gains.gains_table().verdict
    assert "can't be told from the noise of its seed" in verdict
    assert "counted once p is 0.25, and three can give no less than 0.25" in verdict


def test_claims_stand_beside_what_the_tables_give() -> None:
    said = {claim.text: claim.given for claim in gains.said()}
    given = " ".join(said.values())
    for words in (
        "18 of 189 cells lie under their ce, the lowest by 9.92 points (ViT-Small-32, CUB-200, ce+anchor+triplet)",
        "best of the eight in 15 of 27 pairs, among the best two in 22, at most 0.94 points behind",
        "Fewer in 23 of 27 pairs; mean share of epochs saved: ResNet 9 %, ConvNeXt 24 %, ViT 41 %.",
        "Silhouette is higher in 9 of 9, NN-hit in 8 of 9.",
        "It is 3.6 times as high.",
        "There the gains in top-1 are +6.99 to +9.10 points; in all other pairs +0.89 to +4.87.",
        "Spearman is higher in 9 of 9, by 0.012 at least",
        "Nine backbones on three data sets are 27.",
        "Epochs, no time; not fewer in 4 of 27 pairs.",
    ):
        assert words in given
    assert len(to_csv(paper_gains.claims_table()).splitlines()) == 1 + len(said)


def test_no_cell_says_nan_or_inf() -> None:
    for table in drawn([*study(2, 8, **WHERE), curve("ce", 9, 0.5)]).values():
        text = to_markdown(table) + to_csv(table)
        assert not re.search(r"\b(nan|inf)\b", text), table.name

"""The paper's tables of hand-made records, and what the paper's own numbers say."""

from __future__ import annotations

import numpy as np

from reports import comparisons, paper_tables
from reports.claims import Design
from reports.formats import Table, to_markdown
from reports.published import published
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import FULL, context, record

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


def test_nothing_is_drawn_for_what_is_not_in_the_paper() -> None:
    assert drawn([record("ce", 0.5), record(FULL, 0.6)]) == {}
    assert drawn([record("ce", 0.5, dataset="cifar100", backbone="test_resnet")]) == {}
    tables = drawn([*three_seeds(), record("ce", 0.5)])
    assert all([block.title for block in table.blocks] == ["cifar100, resnet50"] for table in tables.values())

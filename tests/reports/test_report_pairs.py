"""Several data sets and backbones side by side, and what stands on the same test images; records made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from reports import pairs, tables, trade_off
from reports.build import build_report
from reports.formats import Table, to_csv, to_markdown
from reports.select import to_blocks
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import context, found_against_base, record

WHERE = (("emoji120", "test_resnet"), ("cifar100", "resnet18"), ("cifar100", "vit_base_patch16_224"))
GAINS = (2.0, 4.0, -3.0)


def several() -> list[TrialRecord]:
    """Two arms on three pairs, three replicates each: hace gains GAINS, 0.1 more or less by the replicate."""
    return [
        record(
            arm,
            0.5 + (gain / 100 + (seed - 1) / 1000 if arm == "hace" else 0.0),
            seed=seed,
            dataset=dataset,
            backbone=backbone,
        )
        for (dataset, backbone), gain in zip(WHERE, GAINS, strict=True)
        for arm in ("ce", "hace")
        for seed in range(3)
    ]


def made(records: list[TrialRecord]) -> Table:
    found = pairs.pairs_table(*found_against_base(records))
    assert found is not None
    return found


def test_each_pair_has_its_gain_and_the_last_row_counts_the_won() -> None:
    table = made(several())
    (rows,) = table.blocks
    assert rows.title == "hace"
    assert [row[3].values[0] for row in rows.rows] == pytest.approx([*GAINS, 1.0])
    assert [row[5].text for row in rows.rows] == ["yes", "yes", "no", "2 of 3"]
    low, high = rows.rows[0][4].values
    assert low < 2.0 < high
    text = to_markdown(table)
    assert "| cifar100 | vit_base_patch16_224 | 3 | −3.0 ± 0.1 |" in text
    assert "15 of 18 pairs" in text
    assert "points or relative" in text
    assert to_csv(table).splitlines()[0] == "arm,dataset,backbone,n_pairs,gain_mean,gain_sd,low,high,won"


def test_one_pair_needs_no_such_table() -> None:
    records = [r for r in several() if r.config.dataset == "emoji120"]
    assert pairs.pairs_table(*found_against_base(records)) is None
    assert pairs.grid_table(context(records)) is None


def test_the_grid_has_a_column_a_pair_and_its_own_best() -> None:
    records = [r for r in several() if not (r.config.dataset == "emoji120" and r.arm == "hace")]
    table = pairs.grid_table(context(records))
    assert table is not None
    assert [column.title for column in table.columns[1:]] == [f"{d}, {b} [%]" for d, b in WHERE]
    (rows,) = table.blocks
    assert [cell.text for cell in rows.rows[1]] == ["hace", "–", "54.0 ± 0.1", "47.0 ± 0.1"]
    assert [cell.mark for cell in rows.rows[1]][2:] == ["best", "second"]


def test_training_sizes_are_different_tasks() -> None:
    records = [record("ce", 0.4, shots=5), record("ce", 0.3, train_fraction=0.25), record("ce", 0.5)]
    assert {block.dataset for block in to_blocks(records)} == {"emoji120 (5 a class)", "emoji120 (25 %)", "emoji120"}


SHARED = "3 replicates stand on 2 distinct test sets"


@pytest.mark.parametrize(("sets", "said"), [("aab", SHARED), ("abc", ""), ("a-b", "")])
def test_replicates_on_the_same_test_images_are_told(sets: str, said: str) -> None:
    records = [
        record("ce", 0.5, seed=seed, provenance={"test_fingerprint": test} if test != "-" else {})
        for seed, test in enumerate(sets)
    ]
    text = to_markdown(tables.top1_table(context(records)))
    assert said in text
    assert ("not independent" in text) == bool(said)


# ---------------------------------------------------------------------------------------------------- figures
def severe(arm: str, seed: int, **metrics: float) -> TrialRecord:
    return record(arm, 0.5, seed=seed, metrics={f"test/{name}": value for name, value in metrics.items()})


def test_severity_is_drawn_against_accuracy_with_and_without_crm() -> None:
    both = {"mistake_severity": 2.0, "top1_crm": 0.45, "mistake_severity_crm": 1.5}
    records = [severe("ce", 0, **both), severe("ce", 1, **both), severe("hace", 0, mistake_severity=1.8)]
    drawing = trade_off.severity_figure(to_blocks(records)[0])
    assert drawing is not None
    (ax,) = drawing.figure.axes
    found = [tuple(map(float, point)) for dots in ax.collections for point in dots.get_offsets()]
    np.testing.assert_allclose(sorted(found), [(45.0, 1.5), (50.0, 1.8), (50.0, 2.0)])
    assert trade_off.severity_figure(to_blocks([record("ce", 0.5)])[0]) is None


def test_an_arm_that_was_varied_is_a_curve() -> None:
    records = [record("ce", 0.5, seed=seed) for seed in (0, 1)]
    for value, score in ((0.7, 0.6), (0.2, 0.4), (0.5, math.nan)):
        records += [
            record(f"hace, dilution {value:g}", score + seed / 100, seed=seed, **{"hace.dilution": value})
            for seed in (0, 1)
        ]
    (block,) = to_blocks(records)
    (curve,) = trade_off.varied(block.arms)
    assert (curve.subset, curve.field, list(curve.arms)) == ("hace", "hace.dilution", [0.2, 0.7])
    drawing = trade_off.varied_figure(block)
    assert drawing is not None
    mean = drawing.figure.axes[0].lines[0]
    assert list(mean.get_xdata()) == [0.2, 0.7]
    assert list(mean.get_ydata()) == pytest.approx([40.5, 60.5])
    assert trade_off.varied_figure(to_blocks([record("hace", 0.5)])[0]) is None


def test_a_report_of_several_pairs_has_all_of_it(tmp_path: Path) -> None:
    report = build_report(several(), tmp_path, latents=lambda _: None, title="t")
    assert {"pairs.md", "grid.csv", "pooled.md"} <= {path.name for path in report.files}
    assert "2 of 3" in (tmp_path / "report.html").read_text()

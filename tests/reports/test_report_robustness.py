"""Accuracy on corrupted images: the table's numbers by hand, and the figure's lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from laresa.measurement import CORRUPTIONS, STRENGTHS, corrupted
from reports.build import build_report
from reports.formats import to_csv, to_markdown
from reports.robustness import robustness_figure, robustness_table
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import by_hand, context, record


def corrupt(arm: str, clean: float, seed: int, step: float) -> TrialRecord:
    """Strength k of the j-th kind costs j * k * step: a kind's mean lies 3 j step under clean, that of all 6 step."""
    metrics = {
        corrupted(kind, strength): clean - number * strength * step
        for number, kind in enumerate(CORRUPTIONS)
        for strength in STRENGTHS
    }
    metrics["test/top1_corrupted"] = sum(metrics.values()) / len(metrics)
    return record(arm, clean, seed=seed, metrics=metrics, corruptions="all")


def some() -> list[TrialRecord]:
    return [
        corrupt("ce", 0.60, 0, 0.02),
        corrupt("ce", 0.64, 1, 0.03),
        corrupt("ce+anchor", 0.70, 0, 0.02),
        record("ce+anchor", 0.8, seed=1),
        record("ce+reg", 0.5, seed=0),
    ]


def test_the_table_by_hand():
    """ce: noise 60, 64; blur 60 - 6, 64 - 9; ...; shift 60 - 24, 64 - 36; all 60 - 12, 64 - 18; drop 12, 18."""
    table = robustness_table(context(some()))
    assert table is not None
    lines = to_markdown(table).splitlines()
    assert lines[2:7] == [
        "| arm | noise [%] | blur [%] | contrast [%] | jpeg [%] | shift [%] | all [%] | drop [points] | ok |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ce | <u>62.0 ± 2.8</u> | <u>54.5 ± 0.7</u> | <u>47.0 ± 1.4</u> | <u>39.5 ± 3.5</u> | <u>32.0 ± 5.7</u> | "
        "<u>47.0 ± 1.4</u> | 15.0 ± 4.2 | 2/2 |",
        "| ce+anchor | **70.0 (n = 1)** | **64.0 (n = 1)** | **58.0 (n = 1)** | **52.0 (n = 1)** | **46.0 (n = 1)** | "
        "**58.0 (n = 1)** | 12.0 (n = 1) | 2/2 |",
        "| ce+reg | – | – | – | – | – | – | – | 1/1 |",
    ]
    assert to_csv(table).splitlines()[0].startswith("dataset,backbone,arm,noise_mean,noise_sd,blur_mean,")


def test_the_figure_by_hand():
    (block,) = context(some()).blocks
    drawing = robustness_figure(block)
    assert drawing is not None
    assert [ax.get_title(loc="left") for ax in drawing.figure.axes] == list(CORRUPTIONS)
    blur = drawing.figure.axes[1].lines
    assert len(blur) == 2  # ce+reg was not tested
    assert list(blur[0].get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert list(blur[0].get_ydata()) == pytest.approx([62 - 2.5 * strength for strength in range(6)])
    assert list(blur[1].get_ydata()) == pytest.approx([70 - 2 * strength for strength in range(6)])


def test_nothing_where_no_trial_was_tested_so():
    made = context(by_hand())
    assert robustness_table(made) is None
    assert robustness_figure(made.blocks[0]) is None


def test_it_stands_in_the_report(tmp_path: Path):
    report = build_report(some(), tmp_path, latents=lambda trial: None, title="by hand")
    assert {"robustness.md", "robustness.svg"} <= {path.name for path in report.files}
    assert "Accuracy on corrupted images" in report.html.read_text()

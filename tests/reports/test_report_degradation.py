"""What label noise costs: slopes, intervals and weights by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laresa.measurement import Measurement
from reports.build import build_report
from reports.degradation import LAST, degradation_table, last_weight, slope
from reports.formats import to_csv, to_markdown
from reports.trade_off import varied, varied_figure
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import by_hand, context, record

SUBSET = "ce+anchor"


def trial(share: float, top1: float, weight: float, seed: int, field: str = "label_noise") -> TrialRecord:
    """Ten epochs, the weight in the last five as given, double before."""
    history = tuple(Measurement(n, {"weight/anchor": weight * (1 if n > 5 else 2)}, 1.0) for n in range(1, 11))
    arm, fields = (f"{SUBSET}, {field} {share:g}", {field: share}) if share else (SUBSET, {})
    return record(arm, top1, seed=seed, history=history, **fields)


def some() -> list[TrialRecord]:
    """Top-1 falls by 10 and 30 points, the weight of anchor by .2 in both, over the whole share; seed 2 lacks .8."""
    found = [
        trial(share, top1 - fall * share, 0.4 - 0.2 * share, seed)
        for share in (0.0, 0.4, 0.8)
        for seed, (top1, fall) in enumerate(((0.60, 0.1), (0.70, 0.3)))
    ]
    return [*(record("ce", 0.6, seed=s) for s in (0, 1)), *found, trial(0.0, 0.9, 0.1, 2), trial(0.4, 0.1, 0.1, 2)]


def test_the_table_by_hand() -> None:
    """Slopes -10 and -30: mean -20, sd 14.1; t interval -20 +- 12.706 * 14.14 / sqrt(2) = -147.1 to 107.1."""
    table = degradation_table(context(some()))
    assert table is not None
    lines = to_markdown(table).splitlines()
    assert lines[2:6] == [
        "| noise | subset | of | at the least | at the most | slope | 95 % interval | n | with noise it |",
        "| :--- | :--- | :--- | ---: | ---: | ---: | ---: | ---: | :--- |",
        "| label_noise | ce+anchor | test top-1 [%] | 65.0 (0) | 49.0 (0.8) | −20.0 ± 14.1 | −147.1 to +107.1 | 2 | "
        "not told from 0 |",
        "| label_noise | ce+anchor | weight of anchor | 0.400 (0) | 0.240 (0.8) | −0.200 ± 0.000 | −0.200 to −0.200 | "
        "2 | falls |",
    ]
    assert len(lines[6:]) == len(["", *table.notes])
    assert to_csv(table).splitlines()[0] == (
        "dataset,backbone,field,subset,quantity,first_share,first_mean,last_share,last_mean,slope_mean,slope_sd,low,high,"
        "n,verdict"
    )


@given(st.floats(-50, 50), st.floats(-50, 50), st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True))
def test_a_line_has_its_own_slope(at_0: float, gain: float, shares: list[float]) -> None:
    if max(shares) - min(shares) < 0.01:
        return
    found = slope({share: {(0, 0): at_0 + gain * share, (1, 1): at_0 - gain * share} for share in shares})
    assert found is not None
    assert found.by_replicate == pytest.approx((gain, -gain), abs=1e-6)
    assert (found.first[0], found.last[0]) == (min(shares), max(shares))


def test_one_replicate_has_a_slope_and_no_verdict() -> None:
    found = slope({0.0: {(0, 0): 1.0}, 0.5: {(0, 0): 0.5}})
    assert found is not None
    assert found.by_replicate == (-1.0,)
    assert math.isnan(found.interval[0])
    assert found.verdict == "–"
    assert slope({0.5: {(0, 0): 1.0}}) is None
    assert slope({}) is None
    assert slope({0.0: {(0, 0): 1.0}, 0.5: {(1, 0): 0.5}}) is None


def test_what_is_constant_does_not_fall() -> None:
    found = slope({share: {(seed, 0): 0.1 + seed / 3 for seed in range(5)} for share in (0.0, 0.2, 0.4, 0.7)})
    assert found is not None
    assert found.verdict == "not told from 0"


def test_the_weight_is_the_mean_over_the_last_epochs() -> None:
    assert last_weight(trial(0.0, 0.5, 0.25, 0), "anchor") == 0.25
    assert LAST == 5
    assert math.isnan(last_weight(trial(0.0, 0.5, 0.25, 0), "triplet"))


def test_the_curve_begins_with_true_texts_and_other_noise_has_its_own() -> None:
    records = [*some(), *(trial(share, 0.5, 0.3, seed, "coarse_noise") for share in (0.5, 1.0) for seed in (0, 1))]
    (block,) = context(records).blocks
    curves = {curve.field: list(curve.arms) for curve in varied(block.arms)}
    assert curves == {"label_noise": [0.0, 0.4, 0.8], "coarse_noise": [0.0, 0.5, 1.0]}
    drawing = varied_figure(block)
    assert drawing is not None
    assert [ax.get_xlabel() for ax in drawing.figure.axes] == ["label_noise", "coarse_noise"]
    table = degradation_table(context(records))
    assert table is not None
    assert len(table.blocks[0].rows) == 4


def test_nothing_where_no_arm_is_noisy() -> None:
    assert degradation_table(context(by_hand())) is None
    lone = [record("ce", 0.5), trial(0.4, 0.5, 0.3, 0)]  # no other share
    assert degradation_table(context(lone)) is None


def test_it_stands_in_the_report(tmp_path: Path) -> None:
    report = build_report(some(), tmp_path, latents=lambda trial: None, title="by hand")
    assert {"degradation.md", "varied.svg"} <= {path.name for path in report.files}
    assert "What label noise costs" in report.html.read_text()

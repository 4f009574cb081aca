"""The first picture: which rows it has, where their dots lead, where marks lie, and that names stay text."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from reports import comparisons
from reports.claims import Design
from reports.forest import MOST_ROWS, Dot, ForestRow, forest_rows, forest_svg, run_url
from tests.reports.handmade import EVIL, by_hand, found_against_base, record, study


def marks(svg: str, name: str, attribute: str) -> list[float]:
    found = [each for each in ElementTree.fromstring(svg).iter() if each.get("class") == name]
    return [float(each.attrib[attribute].rstrip("%")) for each in found]


def test_rows_are_the_comparisons_and_dots_their_pairs() -> None:
    _, found = found_against_base(by_hand())
    anchor, full = forest_rows([], found, "http://host:5000/#/experiments/7/runs?view=1")
    assert (anchor.label, full.label) == ("ce+anchor against ce", "ce+anchor+triplet+reg against ce")
    assert [dot.value for dot in anchor.dots] == pytest.approx([0, -2])
    assert (full.mean, [dot.value for dot in full.dots]) == (pytest.approx(2), pytest.approx([1, 2, 3]))
    assert full.text == "+2.0 [−0.5, +4.5]"
    assert full.dots[1].label == "seed 1, fold 0: +2.0"
    run_ids = [t.run_id for t in by_hand() if t.arm == "ce+anchor+triplet+reg"]
    assert [dot.href for dot in full.dots] == [f"http://host:5000/#/experiments/7/runs/{run_id}" for run_id in run_ids]


def test_at_most_eight_rows_and_the_block_is_named_where_there_are_several() -> None:
    _, found = found_against_base(study(2, 4) + study(2, 4, dataset="cifar100"))
    rows = forest_rows([], found)
    assert len(rows) == MOST_ROWS
    assert [row.label for row in rows] == [f"{c.arm} against ce ({c.block.title})" for c in found[:MOST_ROWS]]
    assert all(dot.href is None for row in rows for dot in row.dots)
    one = [record("ce", 0.5, **more) for more in ({}, {"dataset": "cifar100"})]
    two = [record("ce+reg", 0.6, **more) for more in ({}, {"dataset": "cifar100"})]
    labels = [row.label for row in forest_rows([], found_against_base(one + two)[1])]
    assert labels == [f"ce+reg against ce ({name}, test_resnet)" for name in ("emoji120", "cifar100")]


def test_primary_contrasts_come_first_and_the_others_are_fainter() -> None:
    made, _ = found_against_base(by_hand())
    design = Design(contrasts=(("ce+anchor+triplet+reg", "ce"),))
    rng = np.random.default_rng(0)
    first = comparisons.primary(made.blocks, design, rng)
    rows = forest_rows(first, comparisons.against_baseline(made.blocks, design, rng, first))
    assert [(row.label, row.primary) for row in rows] == [
        ("ce+anchor+triplet+reg against ce", True),
        ("ce+anchor against ce", False),
    ]


@pytest.mark.parametrize(
    "url", [None, "", "sqlite:///x.db", "javascript:alert(1)//#/experiments/1", "http://host/#/models", "file:///a"]
)
def test_only_a_server_has_pages_of_runs(url: str | None) -> None:
    assert run_url(url, "r") is None


def test_a_run_id_stays_one_part_of_the_address() -> None:
    assert run_url("https://host/mlflow/#/experiments/1", "a/b?c#d") == (
        "https://host/mlflow/#/experiments/1/runs/a%2Fb%3Fc%23d"
    )


def test_marks_lie_where_the_numbers_are() -> None:
    dots = (Dot(0.0, "none", "http://h/#1"), Dot(4.0, "much"), Dot(-2.0, "less"))
    svg = forest_svg([ForestRow("a", 1.0, -1.0, 3.0, "+1.0 [−1.0, +3.0]", dots)])
    (zero,), (low,), (high,) = marks(svg, "zero", "x1"), marks(svg, "interval", "x1"), marks(svg, "interval", "x2")
    at = marks(svg, "dot", "cx")
    assert at[0] == zero
    assert at[2] < low < zero < high < at[1]
    assert high - zero == pytest.approx(3 * (zero - low), abs=0.01)
    assert svg == forest_svg([ForestRow("a", 1.0, -1.0, 3.0, "+1.0 [−1.0, +3.0]", dots)])
    assert len(set(marks(svg, "dot", "cy"))) == 3
    assert 'role="group"' in svg  # what is linked must not be inside an image
    assert svg.count("<a ") == 1


def test_a_single_pair_has_no_interval_and_equal_numbers_a_scale() -> None:
    row = ForestRow("a", 0.0, math.nan, math.nan, "0.0", (Dot(0.0, "seed 0, fold 0: 0.0"),), primary=False)
    svg = forest_svg([row, ForestRow("nothing", math.nan, math.nan, math.nan, "–", ())], unit="%")
    assert marks(svg, "interval", "x1") == []
    assert marks(svg, "dot", "cx") == marks(svg, "zero", "x1")
    assert 'role="img"' in svg
    assert "difference [%]" in svg
    assert "nothing" not in svg
    assert "nan" not in svg
    assert forest_svg([]) == ""


def test_names_stay_text() -> None:
    svg = forest_svg([ForestRow(EVIL, 1.0, 0.0, 2.0, EVIL, (Dot(1.0, EVIL, f'http://h/"{EVIL}'),))], unit=EVIL)
    root = ElementTree.fromstring(svg)
    assert not [each for each in root.iter() if each.tag == "script"]
    assert "<script" not in svg
    (link,) = root.iter("a")
    assert link.get("href") == f'http://h/"{EVIL}'
    assert [title.text for title in link] == [EVIL, None]


def test_a_long_label_takes_several_lines() -> None:
    label = "a very long name of an arm that no phone shows in a single line of text"
    found = re.findall(r'class="label"[^>]*>([^<]*)<', forest_svg([ForestRow(label, 1.0, 0.0, 2.0, "+1.0", ())]))
    assert len(found) == 2
    assert " ".join(found) == label

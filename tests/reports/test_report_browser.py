"""The page as a browser shows it: nothing sticks out, tables sort, nothing is fetched and nothing complained of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import reports
from reports import Report
from tests import browser

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(browser.MISSING is not None, reason=str(browser.MISSING)),
]

STICKS_OUT = "document.documentElement.scrollWidth - innerWidth"
SMALLEST = """Math.min(...[...document.querySelectorAll("body *")]
  .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
  .filter((each) => !each.closest("script, svg title, desc"))
  .map((each) => parseFloat(getComputedStyle(each).fontSize)))"""
HINTS = """[...document.querySelectorAll(".wide")].map((box) =>
  [box.scrollWidth > box.clientWidth, getComputedStyle(box.nextElementSibling).display !== "none"])"""
COLORS = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
PICTURE = "Math.min(...[...document.images].map((image) => image.complete && image.naturalWidth))"
SCHEME = """[...document.images].every((image) =>
  (image.currentSrc !== image.src) === matchMedia("(prefers-color-scheme: dark)").matches)"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    with browser.chromium() as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_it_fits_the_screen_and_asks_for_nothing(
    chromium: browser.Browser, whole: Report, width: int, dark: bool
) -> None:
    asked = [STICKS_OUT, SMALLEST, PICTURE, SCHEME, COLORS, HINTS]
    seen = chromium.visit(whole.html.as_uri(), asked, width=width, dark=dark)
    sticks_out, smallest, picture, scheme, (page, ink), hints = seen.values
    assert sticks_out <= 0
    assert smallest >= 15
    assert picture > 100  # each of them is shown: the policy lets them
    assert scheme  # figures are the ones for this page
    assert (_brightness(page) < _brightness(ink)) == dark
    assert all(over == hinted for over, hinted in hints)
    assert any(over for over, _ in hints) == (width == 390)
    assert seen.complaints == []
    assert seen.requests == []


def _brightness(color: str) -> int:
    """Of "rgb(21, 24, 28)"."""
    return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")))


SORTING = """
<!doctype html><table><thead><tr><th class="l">name</th><th class="r">number</th></tr></thead>
<tbody><tr class="block"><th colspan="2">one</th></tr>%s<tr class="sum"><td>all</td><td>99</td></tr></tbody>
<tbody><tr><td>z</td><td>2</td></tr><tr><td>y</td><td>3</td></tr></tbody></table><script>%s</script>
"""
NUMBERS = ("64.3 ± 1.2", "−2.0 ± 0.1", "–", "+1.8", "1,234", "<0.001", "†3", "9/10", "baseline", "0.001")
ROWS = """[...document.querySelector("tbody").rows].map((row) => row.cells[row.cells.length - 1].textContent)"""
SECOND = """[...document.querySelector("table").tBodies[1].rows].map((row) => row.cells[0].textContent)"""


def click(column: int) -> str:
    """A click on a header; what a screen reader hears of it."""
    button = f"document.querySelectorAll('thead th')[{column}]"
    return f"{button}.querySelector('button').click(); {button}.getAttribute('aria-sort')"


def test_a_click_sorts_numbers_then_turns_them_then_puts_them_back(chromium: browser.Browser, tmp_path: Path) -> None:
    rows = "".join(f"<tr><td>n{place}</td><td>{text}</td></tr>" for place, text in enumerate(NUMBERS))
    script = Path(reports.__file__).with_name("page.js")
    page = tmp_path / "page.html"
    page.write_text(SORTING % (rows, script.read_text(encoding="utf-8")), encoding="utf-8")
    steps = [ROWS, click(1), ROWS, SECOND, click(1), ROWS, SECOND, click(1), ROWS, SECOND]
    seen = chromium.visit(page.as_uri(), steps, width=800)
    before, down, falling, others_down, up, rising, others_up, none, after, others = seen.values
    assert before == ["one", *NUMBERS, "99"]
    missing = ["–", "baseline"]
    assert (down, up, none) == ("descending", "ascending", None)
    ordered = ["−2.0 ± 0.1", "<0.001", "0.001", "+1.8", "†3", "9/10", "64.3 ± 1.2", "1,234"]
    assert rising == ["one", *ordered, *missing, "99"]
    assert falling == ["one", *reversed(ordered), *missing, "99"]
    assert after == before
    assert (others_down, others_up, others) == (["y", "z"], ["z", "y"], ["z", "y"])  # each block by itself


TOP1 = """[...document.querySelectorAll("#table-top1 tbody tr")].map((row) => row.cells[0].textContent)"""
FOCUS = """(() => {
  const button = document.querySelector("#table-top1 thead button");
  button.focus();
  return document.activeElement === button && button.textContent;
})()"""


def test_a_table_of_the_page_sorts_by_its_arms(chromium: browser.Browser, whole: Report) -> None:
    press = click(0).replace("'thead th'", "'#table-top1 thead th'")
    seen = chromium.visit(whole.html.as_uri(), [FOCUS, TOP1, press, TOP1, press, TOP1], width=1280)
    focused, before, up, rising, down, falling = seen.values
    assert focused == "arm"  # the keyboard reaches it: a button
    assert (up, down) == ("ascending", "descending")
    assert before[0] == "ce"
    assert falling == [*reversed(rising)] != before
    assert sorted(before) == sorted(rising), json.dumps(rising)
    assert seen.complaints == []

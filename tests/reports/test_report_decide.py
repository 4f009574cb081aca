"""A sequential study's looks: what is decided, and what is still needed."""

from __future__ import annotations

import pytest

from reports.claims import SEQUENTIAL, Design
from reports.decide import first_look, outlook, undecided
from tests.reports.test_report_claims import gains

DESIGN = Design(contrasts=(("ce+reg", "ce"),), kind=SEQUENTIAL)
TWO = Design(contrasts=(("ce+reg", "ce"), ("ce+anchor", "ce")), kind=SEQUENTIAL)


def test_two_contrasts_take_a_replicate_more_than_one() -> None:
    assert (first_look(1), first_look(2)) == (6, 7)


@pytest.mark.parametrize(
    ("points", "decided"),
    [
        ([2.0, 3, 2, 3, 2, 3, 2], True),  # above
        ([-2.0, -3, -2, -3, -2, -3, -2], True),  # below
        ([0.01, -0.01, 0.02, -0.02, 0.01, -0.01, 0.0], True),  # equivalent
        ([2.0, -3, 2, 3, -2, 3, 2], False),
        ([2.0, 3, 2], False),
    ],
)
def test_what_is_decided(points: list[float], decided: bool) -> None:
    assert undecided(gains("ce+reg", points), DESIGN) == ([] if decided else ["ce+reg against ce"])


def test_a_contrast_that_is_not_there_is_not_decided() -> None:
    assert undecided(gains("ce+reg", [2.0, 3, 2, 3, 2, 3, 2, 3]), TWO) == ["ce+anchor against ce"]
    assert undecided([], TWO) == ["ce+reg against ce", "ce+anchor against ce"]


def test_how_many_more_are_likely_needed() -> None:
    (line,) = outlook(gains("ce+reg", [1.0, -1, 2, 0, 1, 3]), DESIGN)
    assert line == (
        "ce+reg against ce: +1.0 ± 1.4 points over 6 test sets; if that is the truth, power .8 takes 18: 12 more"
    )
    assert outlook(gains("ce+reg", [1.0]), DESIGN) == []

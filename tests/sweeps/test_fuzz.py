"""Whatever is typed, and whatever lies in a user's files, ends with a line that says why."""

from __future__ import annotations

import pytest

from tests.sweeps.fuzz import Answer, answers, replay

SEED, COUNT = 0, 500


@pytest.mark.slow
def test_hostile_input_ends_with_a_word_of_why():
    found = list(answers(SEED, range(COUNT)))
    wrong = [answer for answer in found if answer.faults]
    assert len(found) == COUNT
    assert not wrong, "\n\n".join(replay(answer, SEED) for answer in wrong)
    codes = {answer.code for answer in found}
    assert codes == {0, 1, 2}, "some input is taken, some work fails, some use is refused"


@pytest.mark.parametrize(
    ("code", "output", "wrote", "fault"),
    [
        (1, "Traceback (most recent call last):", (), "a traceback"),
        (1, "laresa: KeyError: 'x'; this is a bug in laresa", (), "called a bug"),
        (130, "laresa: stopped", (), "exit code 130"),
        ("too long", "laresa: waiting", (), "exit code too long"),
        (2, " \n", (), "no word of why"),
        (0, "red \x1b[31m", (), "raw control characters"),
        (2, "no server at http://u:s3cret@host", (), "a password"),
        (2, "refused", ("storage/x",), "wrote storage/x"),
    ],
)
def test_the_fuzz_test_can_fail(code: int | str, output: str, wrote: tuple[str, ...], fault: str):
    assert Answer(0, "line", ("plan",), code, output, wrote).faults == [fault]
    assert Answer(0, "line", ("plan",), 2, "laresa: refused", ()).faults == []

"""Successive halving inside a group of a search's trials, each arm for itself: Tune sees whole groups only.

The rule is asynchronous (ASHA, Li et al., 2020, https://arxiv.org/abs/1810.05934, Algorithm 2): at a rung a trial goes
on if it is among the best third of those of its arm that have come there so far. What comes to a rung at the same time
is compared at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from laresa.measurement import Measurement

FACTOR = 3


def rungs(epochs: int) -> tuple[int, ...]:
    """The epochs at which a trial of that length is looked at: a ninth of it, and three times as much each time."""
    found = [max(1, round(epochs / FACTOR**2))]
    while (following := found[-1] * FACTOR) < epochs:
        found.append(following)
    return tuple(rung for rung in found if rung < epochs)


class Halving:
    """arms: of each trial of a group. epochs: the length of each."""

    def __init__(self, arms: Sequence[str], epochs: Sequence[int]) -> None:
        self._arms, self._rungs = arms, [rungs(length) for length in epochs]
        self._seen: dict[tuple[str, int], dict[int, float]] = {}  # arm and rung -> trial -> val/top1 there

    def stopped(self, histories: Sequence[Sequence[Measurement]], running: Collection[int]) -> list[int]:
        """Those of `running` that end here. To be asked after every epoch, with what all have measured so far."""
        came = list[tuple[int, tuple[str, int]]]()
        for index, history in enumerate(histories):
            for rung in self._rungs[index]:
                place = (self._arms[index], rung)
                if len(history) >= rung and index not in self._seen.setdefault(place, {}):
                    self._seen[place][index] = history[rung - 1].metrics["val/top1"]
                    came.append((index, place))
        return sorted({index for index, place in came if index in running and not _stays(self._seen[place], index)})


def _stays(values: Mapping[int, float], index: int) -> bool:
    """Whether it is among the best third; of equals all stay."""
    best = sorted(values.values(), reverse=True)
    return values[index] >= best[max(1, len(best) // FACTOR) - 1]

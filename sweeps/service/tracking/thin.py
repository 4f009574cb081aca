"""Which epochs of a long history go to the tracker; all of them stand in history.json."""

from __future__ import annotations

import math
from collections.abc import Sequence

from laresa.measurement import Measurement

EPOCHS_TRACKED = 200  # of a trial, at most: more than a curve on a screen shows
BESIDES = 2  # the best and the last, wherever they fall


def stride(epochs: int) -> int:
    """Every how many epochs one is sent, of so many: a power of two, so that a shorter history's choice includes it."""
    return int(2 ** max(0, math.ceil(math.log2(max(1, epochs) / (EPOCHS_TRACKED - BESIDES)))))


def at_once(measurement: Measurement, epochs: int) -> bool:
    """Whether an epoch is sent while its trial, of so many epochs at most, is trained."""
    return epochs <= EPOCHS_TRACKED or (measurement.epoch - 1) % stride(epochs) == 0


def thinned(history: Sequence[Measurement], best_epoch: float | None) -> list[Measurement]:
    """The epochs of a whole history that are tracked: all, or evenly spaced ones with the first, the best, the last.

    best_epoch: as the trial says; None: that of the greatest validation top-1.
    """
    if len(history) <= EPOCHS_TRACKED:
        return list(history)
    if best_epoch is None:
        best_epoch = max(history, key=_top1).epoch
    kept = {history[0].epoch, best_epoch, history[-1].epoch}
    return [m for m in history if m.epoch in kept or at_once(m, len(history))]


def _top1(measurement: Measurement) -> float:
    value = measurement.metrics.get("val/top1", -math.inf)
    return -math.inf if math.isnan(value) else value

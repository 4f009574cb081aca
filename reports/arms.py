"""What an arm's replicates say together, as numbers: for the tracker's run of the arm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from reports.claims import tested_on
from reports.select import Arm, Block
from reports.statistics import mean_sd

MEASURED = ("test/", "best/", "corrupted/")


def summaries(blocks: Sequence[Block]) -> Iterator[tuple[str, dict[str, float]]]:
    """(label, metrics) of each arm with a result: mean/NAME and sd/NAME, n, test_sets, trials."""
    for block in blocks:
        for arm in block.arms:
            if arm.chosen:
                yield (arm.label if len(blocks) == 1 else f"{arm.label} ({block.title})"), _metrics(arm)


def _metrics(arm: Arm) -> dict[str, float]:
    names = dict.fromkeys(
        n for t in arm.chosen.values() for n in t.metrics if n.startswith(MEASURED) or n == "best_epoch"
    )
    found = {"n": float(len(arm.chosen)), "trials": float(arm.n_total)}
    found["test_sets"] = float(len({tested_on(arm, key, {}) for key in arm.chosen}))
    for name in names:
        mean, sd = mean_sd(list(arm.values(name).values()))
        found |= {f"mean/{name}": mean, f"sd/{name}": sd}
    return {name: value for name, value in found.items() if math.isfinite(value)}

"""Ten kills at random moments of one sweep, and what they cost: nothing may be lost."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.bench.timing import row

COUNT = 10


def ten_moments() -> list[dict[str, object]]:
    """Worker, raylet, driver and server die in random order; trials that differ from undisturbed ones are counted."""
    import torch

    from laresa.training import fit
    from sweeps import trials
    from sweeps.service.storage.files import SweepFolder
    from sweeps.service.tracking.local_server import LocalServer
    from tests.sweeps.conftest import ablation, draw_pictures
    from tests.sweeps.test_kills import KILLS, assert_settled, disturb

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LARESA_HOME"] = str(folder / "home")
        server = LocalServer()
        url = server.launch()
        server.wait(url)
        try:
            study = ablation("killed", draw_pictures(folder / "toys"), "ce,ce+anchor,ce+triplet", "0,1", epochs=40)
            rng = random.Random(0)
            kills = [rng.choice(sorted(KILLS)) for _ in range(COUNT)]
            started = time.perf_counter()
            disturb(["run", *study], folder, SweepFolder(folder / "home/storage/killed"), kills, 0, spread=12)
            wall = time.perf_counter() - started
            url = LocalServer().launch()
            assert_settled(url, "killed", {"finished"})
            records = trials("killed")
            assert len(records) == 6
            torch.set_num_threads(1)  # as each trial had: sums depend on how many share them
            different = 0
            for record in records:
                again = {n: v for n, v in fit(record.config, device="cpu").metrics.items() if n != "seconds/train"}
                different += {n: record.metrics[n] for n in again} != again
        finally:
            LocalServer().stop()
            del os.environ["LARESA_HOME"]
    what = ", ".join(f"{count} of the {kill}" for kill, count in sorted(Counter(kills).items()))
    note = f"of 6 after {COUNT} kills ({what}), {wall:.0f} s in all; each compared to the bit with undisturbed training"
    return [row("trials lost or changed by kills", different, "trials", None, None, note)]

"""What it costs a trial that its files are on the disk before they count."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest.mock import Mock, patch

from tests.bench.timing import pairwise, row, threads

EPOCHS, PAIRS = 10, 7  # epochs in one measurement


def epochs() -> list[dict[str, object]]:
    """Seconds of an epoch, checkpoint included, with and without fsync, in turn; on the disk of this folder."""
    import torch

    from laresa.config import TrialConfig
    from sweeps.service.storage.files import SweepFolder
    from sweeps.service.study import PlannedTrial
    from sweeps.service.tracking.write import SweepRun
    from sweeps.service.worker.members import TrialContext
    from sweeps.service.worker.session import Session

    config = TrialConfig(backbone="test_resnet", dataset="emoji120", subset="ce", epochs=1000, patience=1000)
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as folder, threads(1):
        context = TrialContext(SweepRun("", "sync", "0", "0"), str(Path(folder).resolve()), 1.0, {})
        session = Session([PlannedTrial("ce", config)], context, Mock(), torch.device("cpu"))

        def some() -> None:
            for _ in range(EPOCHS):
                session.step()

        def unsynced() -> None:
            with patch.object(os, "fsync", lambda file: None):
                some()

        synced, without, ratio = pairwise(some, unsynced, PAIRS)
        (trial,) = SweepFolder(Path(folder).resolve()).root.glob("trials/*")
        size = max(path.stat().st_size for path in trial.rglob("checkpoint-*"))
    note = f"test_resnet on emoji120, one thread, a checkpoint of {size / 1e6:.1f} MB each; {PAIRS} pairs of {EPOCHS}"
    return [row("an epoch whose checkpoint is synced", synced / EPOCHS, "s", without / EPOCHS, ratio, note)]

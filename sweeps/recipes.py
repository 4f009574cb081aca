"""Training settings by data set, where the paper's defaults (TrialConfig) don't apply. Settled on the ce arm alone."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # Some 700 small pictures: a small network and a small batch, half a second of one core an epoch. Batch size, lr and
    # schedule are the best of twelve by validation top-1 (mean of folds 0 and 2).
    "emoji120": {
        "backbone": "test_resnet",
        "channels_last": True,
        "lr": 2e-3,
        "batch_size": 32,
        "epochs": 30,
        "patience": 30,
    },
}

"""Training settings by data set, where the paper's defaults (TrialConfig) don't apply. Settled on the ce arm alone."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # Some 700 small pictures: a small network and a small batch, some 0.7 s of one core an epoch. Batch size, lr and
    # schedule are the best of sixteen by validation top-1 of the ce arm; the epochs are what six minutes allow.
    "emoji120": {
        "backbone": "test_resnet",
        "channels_last": True,
        "lr": 4e-3,
        "schedule": "cosine",
        "batch_size": 32,
        "epochs": 18,
        "patience": 18,
    },
}

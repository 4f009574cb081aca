"""Training settings by data set, where the paper's defaults (TrialConfig) don't apply. Settled on the ce arm alone."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # 620 small pictures: a small network, a small batch, minutes on two cores.
    "emoji120": {"backbone": "test_resnet", "lr": 2e-3, "batch_size": 32, "epochs": 60, "patience": 60},
}

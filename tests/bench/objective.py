"""What the full LARESA step costs over a plain cross-entropy step of the same model."""

from __future__ import annotations

import torch
from torch import nn

from laresa.config import TrialConfig
from laresa.model import build_model
from laresa.objective import Objective
from laresa.taxonomy import Taxonomy
from tests.bench.timing import pairwise, row

BATCH, SIZE, CLASSES, WIDTH = 128, 32, 100, 384


def step() -> list[dict[str, object]]:
    """ResNet-18, batch 128, 32 px: forward, loss, backward, optimiser."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
    y_N = torch.randint(0, CLASSES, (BATCH,), device=device)
    tree = Taxonomy.from_groups({f"{k}": [f"{k}.{i}" for i in range(5)] for k in range(CLASSES // 5)})
    objective = Objective(TrialConfig(), tree, torch.randn(2, CLASSES, WIDTH)).to(device)
    plain, full = (_model(device) for _ in range(2))
    slow = torch.optim.Adam([*full.parameters(), *objective.parameters()], fused=True)
    fast = torch.optim.Adam(plain.parameters(), fused=True)

    def ours() -> None:
        slow.zero_grad(set_to_none=True)
        logits, z_ND, features_NF = full(images)
        objective(objective.batch(logits, z_ND, y_N, features_NF=features_NF)).total.backward()
        slow.step()
        _wait(device)

    def cross_entropy() -> None:
        fast.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(plain(images)[0], y_N).backward()
        fast.step()
        _wait(device)

    a, b, ratio = pairwise(ours, cross_entropy, 40 if device == "cuda" else 12)
    note = f"{device}, ResNet-18, batch {BATCH}, {SIZE} px; baseline: F.cross_entropy. Lower is better, goal 1.03"
    return [row("objective full step", a * 1e3, "ms", b * 1e3, ratio, note)]


def _model(device: str) -> nn.Module:
    return build_model("resnet18", pretrained=False, input_size=SIZE, latent_dim=WIDTH, outputs=CLASSES).to(device)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

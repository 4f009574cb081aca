"""What the full LARESA step costs over a plain cross-entropy step of the same model; HACE over the same logits."""

from __future__ import annotations

import torch
from torch import nn

from laresa.config import TrialConfig
from laresa.losses import hace_loss
from laresa.model import build_model
from laresa.objective import Objective
from laresa.taxonomy import Taxonomy
from tests.bench.timing import pairwise, row

BATCH, SIZE, CLASSES, WIDTH = 128, 32, 100, 384
BIRDS = {"leaves": 555, "parents": 404, "tops": 51, "batch": 1024}  # NABirds: 1,011 nodes with the root


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


def hace() -> list[dict[str, object]]:
    """Loss and gradient of HACE and of cross-entropy over the same logits, one a node of a tree of NABirds' size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    leaves, parents, tops, batch = BIRDS.values()
    tree = Taxonomy.from_paths({f"{i}": (f"p{i % parents}", f"t{i % parents % tops}", "root") for i in range(leaves)})
    logits = torch.randn(batch, len(tree.parents), device=device, requires_grad=True)
    y_N = torch.randint(0, leaves, (batch,), device=device)

    def ours() -> None:
        logits.grad = None
        hace_loss(logits, y_N, tree, dilution=0.7).mean().backward()
        _wait(device)

    def cross_entropy() -> None:
        logits.grad = None
        nn.functional.cross_entropy(logits, y_N).backward()
        _wait(device)

    a, b, ratio = pairwise(ours, cross_entropy, 200)
    note = (
        f"{device}, {torch.get_num_threads()} threads, {len(tree.parents)} logits, batch {batch}, forward and backward;"
    )
    note += " baseline: F.cross_entropy. Lower is better, goal 1.5"
    return [row("HACE loss", a * 1e3, "ms", b * 1e3, ratio, note)]


def _model(device: str) -> nn.Module:
    return build_model("resnet18", pretrained=False, input_size=SIZE, latent_dim=WIDTH, outputs=CLASSES).to(device)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

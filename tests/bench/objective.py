"""What the full LARESA step costs over a plain cross-entropy step of the same model; HACE over the same logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from laresa.config import TrialConfig
from laresa.losses import hace_loss
from laresa.model import build_model, default_device
from laresa.objective import Objective
from laresa.taxonomy import Taxonomy
from tests.bench.timing import pairwise, place, row, wait

BATCH, SIZE, CLASSES, WIDTH = 128, 32, 100, 384
FEATURES = 1024  # of DINOv2-Large
BIRDS = {"leaves": 555, "parents": 404, "tops": 51, "batch": 1024}  # NABirds: 1,011 nodes with the root


def step() -> list[dict[str, object]]:
    """ResNet-18, batch 128, 32 px: forward, loss, backward, optimiser."""
    device = default_device()
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
    y_N = torch.randint(0, CLASSES, (BATCH,), device=device)
    tree = Taxonomy.from_groups({f"{k}": [f"{k}.{i}" for i in range(5)] for k in range(CLASSES // 5)})
    objective = Objective(TrialConfig(), tree, tuple(torch.randn(2, CLASSES, WIDTH))).to(device)
    plain, full = (_model(device) for _ in range(2))
    slow = torch.optim.Adam([*full.parameters(), *objective.parameters()], fused=True)
    fast = torch.optim.Adam(plain.parameters(), fused=True)

    def ours() -> None:
        slow.zero_grad(set_to_none=True)
        logits, z_ND, features_NF = full(images)
        objective(objective.batch(logits, z_ND, y_N, features_NF=features_NF)).total.backward()
        slow.step()
        wait()

    def cross_entropy() -> None:
        fast.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(plain(images)[0], y_N).backward()
        fast.step()
        wait()

    a, b, ratio = pairwise(ours, cross_entropy, 40 if device.type == "cuda" else 12)
    note = f"{place()}, ResNet-18, batch {BATCH}, {SIZE} px; baseline: F.cross_entropy. Lower is better, goal 1.03"
    return [row("objective full step", a * 1e3, "ms", b * 1e3, ratio, note)]


def hace() -> list[dict[str, object]]:
    """HACE and cross-entropy over the same logits, one a node of a tree of NABirds' size: loss, and step of a probe."""
    device = default_device()
    torch.manual_seed(0)
    leaves, parents, tops, batch = BIRDS.values()
    tree = Taxonomy.from_paths({f"{i}": (f"p{i % parents}", f"t{i % parents % tops}", "root") for i in range(leaves)})
    nodes = len(tree.parents)
    y_N = torch.randint(0, leaves, (batch,), device=device)
    logits = torch.randn(batch, nodes, device=device, requires_grad=True)
    x_NF = nn.functional.normalize(torch.randn(batch, FEATURES, device=device))
    head = nn.Linear(FEATURES, nodes, device=device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, fused=True)

    def hierarchical(found: Tensor) -> Tensor:
        return hace_loss(found, y_N, tree, dilution=0.7).mean()

    def plain(found: Tensor) -> Tensor:
        return nn.functional.cross_entropy(found, y_N)

    def of_logits(loss: Callable[[Tensor], Tensor]) -> None:
        logits.grad = None
        loss(logits).backward()
        wait()

    def of_probe(loss: Callable[[Tensor], Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(head(x_NF)).backward()
        optimizer.step()
        wait()

    rows = []
    what = f"{place()}, {nodes} logits, batch {batch}"
    for name, work, more in (
        ("HACE loss", of_logits, "forward and backward"),
        ("HACE step", of_probe, f"of the linear probe on {FEATURES} features, SGD; goal 1.5"),
    ):
        a, b, ratio = pairwise(partial(work, hierarchical), partial(work, plain), 100)
        note = f"{what}, {more}; baseline: F.cross_entropy. Lower is better"
        rows.append(row(name, a * 1e3, "ms", b * 1e3, ratio, note))
    return rows


def _model(device: torch.device) -> nn.Module:
    return build_model("resnet18", pretrained=False, input_size=SIZE, latent_dim=WIDTH, outputs=CLASSES).to(device)

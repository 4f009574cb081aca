"""Small networks trained end to end as one: what it would gain here. Nothing of the service does it (yet)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from laresa.model import build_model, default_device
from tests.bench.timing import pairwise, place, row, threads, wait

NETWORKS, BATCH, SIZE, CLASSES, LATENT, STEPS = 64, 32, 32, 120, 384, 2


def together() -> list[dict[str, object]]:
    """64 test_resnets, batch 32, cross-entropy and Adam: vmap over stacked weights, against one after another."""
    torch.manual_seed(0)
    device = default_device()
    images = torch.randn(NETWORKS, BATCH, 3, SIZE, SIZE, device=device)
    y_KN = torch.randint(0, CLASSES, (NETWORKS, BATCH), device=device)
    stacked, single = _stacked(), [_single() for _ in range(NETWORKS)]

    def ours() -> None:
        for _ in range(STEPS):
            stacked(images, y_KN)
        wait()

    def other() -> None:
        for train, own, y_N in zip(single, images, y_KN, strict=True):
            for _ in range(STEPS):
                train(own, y_N)
        wait()

    with threads(2):
        a, b, ratio = pairwise(ours, other, 3)
        where = place()
    note = f"{where}, test_resnet, batch {BATCH}, {SIZE} px, {STEPS} steps; baseline: one after another. "
    note += "Ratio: times as fast"
    return [row(f"{NETWORKS} small networks as one", a, "s", b, 1 / ratio, note)]


def _model() -> nn.Module:
    made = build_model("test_resnet", pretrained=False, input_size=SIZE, latent_dim=LATENT, outputs=CLASSES)
    return made.to(default_device())


def _single():  # type: ignore[no-untyped-def]
    model = _model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step(images: Tensor, y_N: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images.contiguous(memory_format=torch.channels_last))[0], y_N).backward()
        optimizer.step()

    return step


def _stacked():  # type: ignore[no-untyped-def]
    models = [_model() for _ in range(NETWORKS)]
    weights, buffers = stack_module_state(models)
    optimizer = torch.optim.Adam(list(weights.values()), fused=True)

    def loss(own: dict[str, Tensor], state: dict[str, Tensor], images: Tensor, y_N: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(models[0], (own, state), (images,))[0], y_N)

    step_of = vmap(grad_and_value(loss), randomness="different")

    def step(images: Tensor, y_KN: Tensor) -> None:
        gradients, _ = step_of({k: v.detach() for k, v in weights.items()}, buffers, images, y_KN)
        for name, value in weights.items():
            value.grad = gradients[name]
        optimizer.step()

    return step

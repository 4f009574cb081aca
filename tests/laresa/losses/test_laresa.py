"""LARESA's losses against plain loops, in value and gradient, in double precision; and what they must not depend on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laresa import losses
from tests.laresa.checks import D, N, assert_same, draw, few, seeds


def naive_cosine(a: Tensor, b: Tensor) -> Tensor:
    dot = sum(a[i] * b[i] for i in range(len(a)))
    return dot / (sum(x * x for x in a) ** 0.5 * sum(x * x for x in b) ** 0.5)


def naive_variance(z: Tensor) -> Tensor:
    total = z.new_zeros(())
    for i in range(z.shape[1]):
        mean = sum(z[:, i]) / len(z)
        sigma = (sum((x - mean) ** 2 for x in z[:, i]) / (len(z) - 1)) ** 0.5
        total = total + (sigma - 1) ** 2
    return total


def test_anchor_is_the_naive_loop() -> None:
    fine, coarse, w = draw(1, N, D), draw(2, N, D), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def naive(z: Tensor) -> Tensor:
        return torch.stack(
            [w[0] * (1 - naive_cosine(z[n], fine[n])) + w[1] * (1 - naive_cosine(z[n], coarse[n])) for n in range(N)]
        )

    assert_same(lambda z: losses.anchor_loss(z, fine, coarse, w), naive, draw(3, N, D))
    assert_same(
        lambda w: losses.anchor_loss(draw(3, N, D), fine, coarse, w),
        lambda w: torch.stack(
            [
                w[0] * (1 - naive_cosine(draw(3, N, D)[n], fine[n]))
                + w[1] * (1 - naive_cosine(draw(3, N, D)[n], coarse[n]))
                for n in range(N)
            ]
        ),
        w,
    )


def test_triplet_is_the_naive_loop_on_both_sides_of_the_hinge() -> None:
    own, other = draw(4, N, D), draw(5, N, D)

    def naive(z: Tensor) -> Tensor:
        values = [0.2 + naive_cosine(z[n], other[n]) - naive_cosine(z[n], own[n]) for n in range(N)]
        return torch.stack([value if value > 0 else value * 0 for value in values])

    z = draw(6, N, D)
    assert 0 < int((naive(z) > 0).sum()) < N
    assert_same(lambda z: losses.triplet_loss(z, own, other, margin=0.2), naive, z)


def test_center_is_the_naive_loop() -> None:
    def naive(z: Tensor) -> Tensor:
        return sum((sum(z[:, i]) / N) ** 2 for i in range(D))

    assert_same(losses.center_loss, naive, draw(7, N, D))
    assert_same(lambda z: losses.center_loss(z, reduction="mean"), lambda z: naive(z) / D, draw(7, N, D))
    with pytest.raises(ValueError, match="reduction='sample': expected 'sum' or 'mean'"):
        losses.center_loss(draw(7, N, D), reduction="sample")


def test_variance_is_the_naive_loop() -> None:
    z = 2 * draw(8, N, D)
    assert_same(losses.variance_loss, naive_variance, z)
    assert_same(lambda z: losses.variance_loss(z, reduction="mean"), lambda z: naive_variance(z) / D, z)
    assert_same(lambda z: losses.variance_loss(z, reduction="sample"), lambda z: naive_variance(z.T) / N, z)
    torch.testing.assert_close(losses.variance_loss(z), (z.std(0) - 1).square().sum())
    with pytest.raises(ValueError, match="reduction='max'"):
        losses.variance_loss(z, reduction="max")


def test_degenerate_latents_have_finite_gradients() -> None:
    z = draw(11, N, D)
    z[0], z[:, 1] = 0, 5.0  # a zero latent; a dimension that is constant over the batch
    z[0, 1] = 5.0
    zero = torch.zeros(1, D, dtype=torch.float64)
    for batch in (z, zero, torch.zeros(N, D, dtype=torch.float64)):
        leaf = batch.clone().requires_grad_()
        e = torch.ones_like(batch)
        w = torch.tensor([0.5, 0.5], dtype=torch.float64)
        total = losses.anchor_loss(leaf, e, e, w).sum() + losses.variance_loss(leaf) + losses.center_loss(leaf)
        total.backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    leaf = zero.clone().requires_grad_()
    losses.anchor_loss(leaf, torch.ones_like(zero), torch.ones_like(zero), w).sum().backward()
    assert not leaf.grad.any()


def test_batch_of_one() -> None:
    z = draw(12, 1, D).requires_grad_()
    assert losses.variance_loss(z) == 0
    losses.variance_loss(z).backward()
    assert not z.grad.any()
    torch.testing.assert_close(losses.center_loss(z), z.square().sum())
    torch.testing.assert_close(losses.triplet_loss(z, z.detach(), -z.detach(), margin=0.2), z.new_zeros(1))


@few
@given(seed=seeds, scale=st.floats(1e-3, 1e3))
def test_anchor_and_triplet_see_directions_only(seed: int, scale: float) -> None:
    z, a, b = (draw(seed + i, N, D) for i in range(3))
    w = torch.tensor([0.4, 0.6], dtype=torch.float64)
    torch.testing.assert_close(losses.anchor_loss(z * scale, a, b, w), losses.anchor_loss(z, a, b, w))
    torch.testing.assert_close(losses.anchor_loss(z, a * scale, b, w), losses.anchor_loss(z, a, b, w))
    torch.testing.assert_close(
        losses.triplet_loss(z * scale, a, b, margin=0.2), losses.triplet_loss(z, a, b, margin=0.2)
    )
    assert (losses.anchor_loss(z, a, b, w) >= 0).all()
    assert (losses.anchor_loss(z, a, b, w) <= 2).all()


@few
@given(seed=seeds, shift=st.floats(-100, 100))
def test_center_ignores_order_and_variance_ignores_a_shift(seed: int, shift: float) -> None:
    z = draw(seed, N, D)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(losses.center_loss(z[order]), losses.center_loss(z))
    torch.testing.assert_close(losses.variance_loss(z[order] + shift), losses.variance_loss(z))
    torch.testing.assert_close(losses.center_loss(z - z.mean(0)), z.new_zeros(()), atol=1e-20, rtol=0)
    unit = (z - z.mean(0)) / z.std(0)
    torch.testing.assert_close(losses.variance_loss(unit), z.new_zeros(()), atol=1e-20, rtol=0)

"""HACE against plain loops, in value and gradient, in double precision; and its identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from laresa import losses
from laresa.taxonomy import Taxonomy
from tests.laresa.checks import FOREST, N, assert_same, draw, few, labels, naive_mass, over_trees, seeds


def naive_hace(logits: Tensor, y: int, tree: Taxonomy, d: float, smoothing: float, epsilon: float) -> Tensor:
    p = torch.exp(logits) / torch.exp(logits).sum()
    loss = logits.new_zeros(())
    for leaf in range(len(tree.names)):
        share = 1 - smoothing if leaf == y else smoothing / (len(tree.names) - 1)
        for node in tree.path(leaf):
            kept = share if tree.parents[node] < 0 else share * d
            share -= kept
            loss = loss - kept * torch.log(naive_mass(p, tree, node) + epsilon)
    return loss


@over_trees
@pytest.mark.parametrize("dilution", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_hace_is_the_naive_loop(tree: Taxonomy, dilution: float, smoothing: float, epsilon: float) -> None:
    y = labels(1, len(tree.names))
    assert_same(
        lambda x: losses.hace_loss(x, y, tree, dilution=dilution, smoothing=smoothing, epsilon=epsilon),
        lambda x: torch.stack([naive_hace(x[n], int(y[n]), tree, dilution, smoothing, epsilon) for n in range(N)]),
        draw(2, N, len(tree.parents)),
    )


@over_trees
@few
@given(seed=seeds, d=st.floats(0.05, 0.95))
def test_hace_identities(tree: Taxonomy, seed: int, d: float) -> None:
    """(a) to (d): minimum 0 at the one-hot; HXE with other weights; cross-entropy at d = 1; the gradient's form."""
    y, x = labels(seed, len(tree.names)), draw(seed, N, len(tree.parents)).requires_grad_()
    loss_N = losses.hace_loss(x, y, tree, dilution=d)
    assert (loss_N > 0).all()
    onehot = torch.full_like(x, -200.0).scatter(1, y[:, None], 200.0)
    torch.testing.assert_close(losses.hace_loss(onehot, y, tree, dilution=d), x.new_zeros(N), atol=1e-12, rtol=0)

    p = x.softmax(1)
    ancestors = torch.tensor(tree.ancestor_VV, dtype=p.dtype)
    mass = p @ ancestors.T
    (gradient,) = torch.autograd.grad(loss_N.sum(), x)
    for n in range(N):
        path = tree.path(int(y[n]))
        above = [mass[n, node] for node in path] + [x.new_ones(())]
        weight = [1 - (1 - d) ** (j + 1) for j in range(len(path) - 1)] + [1.0]
        edges = [-weight[j] * torch.log(above[j] / above[j + 1]) for j in range(len(path))]
        torch.testing.assert_close(loss_N[n], torch.stack(edges).sum())
        q = [d * (1 - d) ** k for k in range(len(path) - 1)] + [(1 - d) ** (len(path) - 1)]
        reached = sum(q[k] * ancestors[node] / mass[n, node] for k, node in enumerate(path))
        torch.testing.assert_close(gradient[n], (p[n] * (1 - reached)).detach(), rtol=1e-8, atol=1e-10)

    leaf_only = x.detach().clone()
    leaf_only[:, len(tree.names) :] = -torch.inf
    torch.testing.assert_close(
        losses.hace_loss(leaf_only, y, tree, dilution=1.0),
        cross_entropy(leaf_only[:, : len(tree.names)], y, reduction="none"),
    )


def test_hace_keeps_its_gradient_where_probabilities_underflow() -> None:
    """In float32 a logit 200 below the others has probability 0: the 1e-6 form goes flat, log space does not."""
    x = torch.zeros(1, len(FOREST.parents))
    x[0, [0, 1, 5]] = -200.0
    x.requires_grad_()
    losses.hace_loss(x, torch.tensor([0]), FOREST, dilution=0.7).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, [0, 1, 5]].sum(), torch.tensor(-1.0))
    assert losses.hace_loss(x, torch.tensor([0]), FOREST, dilution=0.7).item() > 190
    parity = losses.hace_loss(x, torch.tensor([0]), FOREST, dilution=0.7, epsilon=1e-6)
    assert parity.item() == pytest.approx(-math.log(1e-6), rel=1e-4)


@pytest.mark.parametrize("dilution", [0.0, -0.1, 1.1])
def test_hace_refuses_a_dilution_outside_its_range(dilution: float) -> None:
    with pytest.raises(ValueError, match="dilution"):
        losses.hace_loss(torch.zeros(1, len(FOREST.parents)), torch.tensor([0]), FOREST, dilution=dilution)

"""Losses over a tree against plain loops, in value and gradient, in double precision; and their identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laresa.hierarchy import hierarchy
from torch import Tensor
from torch.nn.functional import cross_entropy

from laresa import losses
from laresa.taxonomy import Taxonomy
from tests.laresa.checks import N, assert_same, draw, few, labels, seeds

FOREST = Taxonomy.from_groups({"sea": ["crab", "eel"], "air": ["owl", "bat", "bee"]})
ROOTED = Taxonomy.from_paths(
    {
        "a": ("ab", "abc", "root"),
        "b": ("ab", "abc", "root"),
        "c": ("c1", "abc", "root"),
        "d": ("d1", "d2", "root"),
        "e": ("d1", "d2", "root"),
    }
)
RAGGED = Taxonomy.from_paths(
    {"a": ("ab", "abc", "root"), "b": ("ab", "abc", "root"), "c": ("abc", "root"), "d": ("root",)}
)
TREES = [FOREST, ROOTED, RAGGED]
NAMES = ["forest", "rooted", "ragged"]
over_trees = pytest.mark.parametrize("tree", TREES, ids=NAMES)


def naive_mass(p: Tensor, tree: Taxonomy, node: int) -> Tensor:
    return sum((p[j] for j in range(len(p)) if node in tree.path(j)), p.new_zeros(()))


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


def naive_hxe(logits: Tensor, y: int, tree: Taxonomy, alpha: float) -> Tensor:
    p = torch.exp(logits) / torch.exp(logits).sum()
    mass = [naive_mass(p, tree, node) for node in tree.path(y)] + [logits.new_ones(())]
    terms = (math.exp(alpha * k) * torch.log(mass[k] / mass[k + 1]) for k in range(len(mass) - 1))
    return -sum(terms, logits.new_zeros(()))


def naive_soft(logits: Tensor, y: int, tree: Taxonomy, beta: float) -> Tensor:
    p = torch.exp(logits) / torch.exp(logits).sum()
    far = max(tree.lca_height(i, j) for i in range(len(tree.names)) for j in range(len(tree.names)))
    target = [math.exp(-beta * tree.lca_height(j, y) / far) for j in range(len(tree.names))]
    return -sum((t / sum(target) * torch.log(p[j]) for j, t in enumerate(target)), logits.new_zeros(()))


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
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5])
def test_hxe_is_the_naive_loop(tree: Taxonomy, alpha: float) -> None:
    y = labels(3, len(tree.names))
    assert_same(
        lambda x: losses.hxe_loss(x, y, tree, alpha=alpha),
        lambda x: torch.stack([naive_hxe(x[n], int(y[n]), tree, alpha) for n in range(N)]),
        draw(4, N, len(tree.names)),
    )


@over_trees
@pytest.mark.parametrize("beta", [0.0, 4.0, 30.0])
def test_soft_labels_are_the_naive_loop(tree: Taxonomy, beta: float) -> None:
    y = labels(5, len(tree.names))
    assert_same(
        lambda x: losses.soft_label_loss(x, y, tree, beta=beta),
        lambda x: torch.stack([naive_soft(x[n], int(y[n]), tree, beta) for n in range(N)]),
        draw(6, N, len(tree.names)),
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
    ancestors = torch.tensor(hierarchy(tree).ancestors, dtype=p.dtype)
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


@over_trees
@few
@given(seed=seeds, shift=st.floats(-50, 50))
def test_tree_losses_reduce_to_cross_entropy_and_ignore_a_shift(tree: Taxonomy, seed: int, shift: float) -> None:
    y, x = labels(seed, len(tree.names)), draw(seed, N, len(tree.names))
    entropy = cross_entropy(x, y, reduction="none")
    torch.testing.assert_close(losses.hxe_loss(x, y, tree, alpha=0.0), entropy)
    torch.testing.assert_close(losses.soft_label_loss(x, y, tree, beta=1e7), entropy)
    for loss in (
        lambda x: losses.hxe_loss(x, y, tree, alpha=0.3),
        lambda x: losses.soft_label_loss(x, y, tree, beta=5.0),
    ):
        torch.testing.assert_close(loss(x + shift), loss(x))


def test_hxe_leaf_edge_has_weight_one() -> None:
    x, y = draw(7, 1, len(FOREST.names)), torch.tensor([0])
    p = x.softmax(1)[0]
    group = p[0] + p[1]
    expected = -torch.log(p[0] / group) - math.exp(0.5) * torch.log(group)
    torch.testing.assert_close(losses.hxe_loss(x, y, FOREST, alpha=0.5)[0], expected)


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


def test_tables_are_built_once_a_tree() -> None:
    again = Taxonomy.from_groups({"x": ["1", "2"], "y": ["3", "4", "5"]})  # other names, same shape
    assert hierarchy(again) is hierarchy(FOREST)
    assert hierarchy(ROOTED) is not hierarchy(FOREST)


@over_trees
def test_heights_and_common_ancestors_are_the_taxonomy_s(tree: Taxonomy) -> None:
    tables = hierarchy(tree)
    assert list(tables.heights) == tree.heights.tolist()
    for i in range(len(tree.parents)):
        assert tables.paths[i] == tree.path(i)
        for j in range(len(tree.parents)):
            assert tables.lca_heights[i, j] == tree.lca_height(i, j)
            assert tables.ancestors[i, j] == (i in tree.path(j))

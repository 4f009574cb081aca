"""HXE and soft labels against plain loops, in value and gradient, in double precision; and their identities."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from laresa import losses
from laresa.batch import Batch
from laresa.losses.bertinetto import hxe, soft_label
from laresa.taxonomy import Taxonomy
from tests.laresa.checks import FOREST, N, assert_same, draw, few, labels, mixed_naively, naive_mass, seeds, trees


def naive_hxe(logits: Tensor, y: int, tree: Taxonomy, alpha: float) -> Tensor:
    p = torch.exp(logits) / torch.exp(logits).sum()
    mass = [naive_mass(p, tree, node) for node in tree.path(y)] + [logits.new_ones(())]
    terms = (math.exp(alpha * k) * torch.log(mass[k] / mass[k + 1]) for k in range(len(mass) - 1))
    return -sum(terms, logits.new_zeros(()))


def naive_soft(logits: Tensor, y: int, tree: Taxonomy, beta: float) -> Tensor:
    p = torch.exp(logits) / torch.exp(logits).sum()
    far = max(tree.lca_height(i, j) for i in range(tree.leaves) for j in range(tree.leaves))
    target = [math.exp(-beta * tree.lca_height(j, y) / far) for j in range(tree.leaves)]
    return -sum((t / sum(target) * torch.log(p[j]) for j, t in enumerate(target)), logits.new_zeros(()))


@few
@given(tree=trees(), seed=seeds, alpha=st.floats(0.0, 1.0))
def test_hxe_is_the_naive_loop(tree: Taxonomy, seed: int, alpha: float) -> None:
    y, share_NC = labels(seed, tree.leaves), torch.softmax(draw(seed + 1, N, tree.leaves), 1)

    def naive(x: Tensor, y: int) -> Tensor:
        return naive_hxe(x, y, tree, alpha)

    assert_same(
        lambda x: losses.hxe_loss(x, y, tree, alpha=alpha),
        lambda x: torch.stack([naive(x[n], int(y[n])) for n in range(N)]),
        draw(seed, N, tree.leaves),
    )
    assert_same(
        lambda x: hxe(Batch(x, x, y, tree=tree, target_NC=share_NC), alpha=alpha),
        lambda x: mixed_naively(naive, x, share_NC),
        draw(seed, N, tree.leaves),
    )


@few
@given(tree=trees(), seed=seeds, beta=st.floats(0.0, 30.0))
def test_soft_labels_are_the_naive_loop(tree: Taxonomy, seed: int, beta: float) -> None:
    y, share_NC = labels(seed, tree.leaves), torch.softmax(draw(seed + 1, N, tree.leaves), 1)

    def naive(x: Tensor, y: int) -> Tensor:
        return naive_soft(x, y, tree, beta)

    assert_same(
        lambda x: losses.soft_label_loss(x, y, tree, beta=beta),
        lambda x: torch.stack([naive(x[n], int(y[n])) for n in range(N)]),
        draw(seed, N, tree.leaves),
    )
    assert_same(
        lambda x: soft_label(Batch(x, x, y, tree=tree, target_NC=share_NC), beta=beta),
        lambda x: mixed_naively(naive, x, share_NC),
        draw(seed, N, tree.leaves),
    )


@few
@given(tree=trees(), seed=seeds, shift=st.floats(-50, 50))
def test_tree_losses_reduce_to_cross_entropy_and_ignore_a_shift(tree: Taxonomy, seed: int, shift: float) -> None:
    y, x = labels(seed, tree.leaves), draw(seed, N, tree.leaves)
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

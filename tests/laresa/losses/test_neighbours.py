"""Label smoothing, hierarchical softmax, CPCC, the tree anchor and DeViSE against plain loops on random trees."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from laresa import losses
from laresa.batch import Batch
from laresa.losses.cpcc import cpcc
from laresa.losses.devise import devise
from laresa.losses.hierarchical_softmax import hierarchical_softmax
from laresa.losses.label_smoothing import label_smoothing
from laresa.losses.tree_anchor import tree_anchor, tree_embedding
from laresa.taxonomy import Taxonomy
from laresa.terms import term
from tests.laresa.checks import FOREST, D, N, assert_same, draw, few, labels, mixed_naively, seeds, trees


def assert_term(
    fn: Callable[[Batch], Tensor], naive: Callable[[Tensor, int], Tensor], x: Tensor, tree: Taxonomy, seed: int
) -> None:
    """A term of logits or latents, under plain and under mixed targets."""
    y, share_NC = labels(seed, tree.leaves), torch.softmax(draw(seed + 1, N, tree.leaves), 1)
    assert_same(
        lambda x: fn(Batch(x, x, y, tree=tree)), lambda x: torch.stack([naive(x[n], int(y[n])) for n in range(N)]), x
    )
    assert_same(
        lambda x: fn(Batch(x, x, y, tree=tree, target_NC=share_NC)), lambda x: mixed_naively(naive, x, share_NC), x
    )


# ---------------------------------------------------------------------- label smoothing
@few
@given(tree=trees(), seed=seeds, epsilon=st.floats(0.0, 0.9))
def test_label_smoothing_is_the_naive_loop_and_torch_s(tree: Taxonomy, seed: int, epsilon: float) -> None:
    def naive(x: Tensor, y: int) -> Tensor:
        p = torch.exp(x) / torch.exp(x).sum()
        return -sum(((1 - epsilon) * (c == y) + epsilon / tree.leaves) * torch.log(p[c]) for c in range(tree.leaves))

    x, y = draw(seed, N, tree.leaves), labels(seed, tree.leaves)
    assert_term(lambda batch: label_smoothing(batch, epsilon=epsilon), naive, x, tree, seed)
    torch.testing.assert_close(
        label_smoothing(Batch(x, x, y), epsilon=epsilon),
        cross_entropy(x, y, reduction="none", label_smoothing=epsilon),
    )


# ---------------------------------------------------------------------- hierarchical softmax
def siblings(tree: Taxonomy, node: int) -> list[int]:
    return [other for other in range(len(tree.parents)) if tree.parents[other] == tree.parents[node]]


@few
@given(tree=trees(), seed=seeds)
def test_hierarchical_softmax_is_the_naive_loop(tree: Taxonomy, seed: int) -> None:
    def naive(x: Tensor, y: int) -> Tensor:
        return -sum(x[node] - torch.log(sum(torch.exp(x[s]) for s in siblings(tree, node))) for node in tree.path(y))

    x = draw(seed, N, len(tree.parents))
    assert_term(hierarchical_softmax, naive, x, tree, seed)
    head = term("hierarchical_softmax").base
    assert head is not None
    log_p_NC = head.log_leaf(x, tree)
    expected = torch.stack([torch.stack([-naive(row, c) for c in range(tree.leaves)]) for row in x])
    torch.testing.assert_close(log_p_NC, expected)
    torch.testing.assert_close(log_p_NC.exp().sum(1), x.new_ones(N), msg="the classes' probabilities sum to 1")
    moved = x + 30 * torch.tensor([float(parent) for parent in tree.parents])  # by family
    torch.testing.assert_close(head.log_leaf(moved, tree), log_p_NC)


def test_hierarchical_softmax_over_one_family_is_cross_entropy() -> None:
    star = Taxonomy.from_groups({"all": ["a", "b", "c"]})
    x, y = draw(1, N, 4), labels(2, 3)
    expected = cross_entropy(x[:, :3], y, reduction="none")
    torch.testing.assert_close(losses.hierarchical_softmax_loss(x, y, star), expected)
    great = losses.hierarchical_softmax_loss(1e4 * x.float(), y, star)
    assert great.isfinite().all()


# ---------------------------------------------------------------------- CPCC
def naive_cpcc(z: Tensor, share: Tensor, tree: Taxonomy) -> Tensor:
    present = [c for c in range(tree.leaves) if share[:, c].sum() > 0]
    mean = {c: sum(share[n, c] * z[n] for n in range(len(z))) / share[:, c].sum() for c in present}
    latent, wanted = [], []
    for i in present:
        for j in (other for other in present if other > i):
            latent.append((mean[i] - mean[j]).square().sum().sqrt())
            steps_i, steps_j = tree.path(i), tree.path(j)
            common = [node for node in steps_i if node in steps_j]
            if common:
                wanted.append(float(steps_i.index(common[0]) + steps_j.index(common[0])))
            else:  # by a root that isn't there
                wanted.append(float(len(steps_i) + len(steps_j)))
    if len(set(wanted)) < 2:
        return z.new_ones(())
    a, b = torch.stack(latent), torch.tensor(wanted, dtype=z.dtype)
    a, b = a - a.mean(), b - b.mean()
    return 1 - (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


@few
@given(tree=trees(), seed=seeds, mixed=st.booleans())
def test_cpcc_is_the_naive_loop(tree: Taxonomy, seed: int, mixed: bool) -> None:
    count = 3 * N  # so that most batches have classes enough
    y, z = labels(seed, tree.leaves, count), draw(seed, count, D)
    share_NC = torch.softmax(draw(seed + 1, count, tree.leaves), 1) if mixed else None
    batch = Batch(z, z, y, tree=tree, target_NC=share_NC, classes=tree.leaves)
    share = batch.target_NC

    def found(z: Tensor) -> Tensor:
        return cpcc(Batch(z, z, y, tree=tree, target_NC=share_NC))

    if naive_cpcc(z, share, tree) == 1:  # nothing varies: no gradient to compare
        leaf = z.clone().requires_grad_()
        found(leaf).backward()
        assert found(z) == 1
        assert leaf.grad is not None
        assert not leaf.grad.any()
    else:
        assert_same(found, lambda z: naive_cpcc(z, share, tree), z)


def test_cpcc_is_zero_where_means_lie_as_the_tree_says() -> None:
    """Two pairs of siblings on a line of four dimensions: distances 2 inside a pair, 4 between."""
    tree = Taxonomy.from_groups({"x": ["a", "b"], "y": ["c", "d"]})
    near, far = 1.0, math.sqrt((16 - 2) / 2)
    z = torch.tensor([[near, 0, far, 0], [-near, 0, far, 0], [0, near, 0, far], [0, -near, 0, far]]).double()
    distance = torch.cdist(z, z)
    torch.testing.assert_close(distance[0, 1] / distance[0, 2], distance[2, 3] / distance[1, 3])
    torch.testing.assert_close(losses.cpcc_loss(z, torch.eye(4).double(), tree), z.new_zeros(()), atol=1e-7, rtol=0)
    turned = losses.cpcc_loss(5 * z[:, [2, 0, 3, 1]] + 7, torch.eye(4).double(), tree)
    torch.testing.assert_close(turned, z.new_zeros(()), atol=1e-7, rtol=0)  # neither place, size nor turn counts


@pytest.mark.parametrize("y", [[0], [0, 0], [0, 1], [0, 2]], ids=str)
def test_cpcc_of_few_classes_and_equal_means_has_finite_gradients(y: list[int]) -> None:
    for z in (torch.zeros(len(y), D), torch.ones(len(y), D), torch.randn(len(y), D)):
        leaf = z.clone().requires_grad_()
        loss = cpcc(Batch(leaf, leaf, torch.tensor(y), tree=FOREST))
        loss.backward()
        assert loss == 1
        assert leaf.grad is not None
        assert not leaf.grad.any()


# ---------------------------------------------------------------------- the tree anchor
@few
@given(tree=trees(), seed=seeds)
def test_the_tree_anchor_is_the_naive_loop(tree: Taxonomy, seed: int) -> None:
    width = 8  # more than there are classes
    phi = torch.tensor(tree_embedding(tree, width))
    far = max(tree.lca_height(i, j) for i in range(tree.leaves) for j in range(tree.leaves))
    for i in range(tree.leaves):
        for j in range(tree.leaves):
            assert float(phi[i] @ phi[j]) == pytest.approx(1 - tree.lca_height(i, j) / far), (i, j)

    def naive(z: Tensor, y: int) -> Tensor:
        return 1 - (z / (z * z).sum().sqrt() * phi[y]).sum()

    assert_term(tree_anchor, naive, draw(seed, N, width), tree, seed)


@few
@given(tree=trees(), width=st.integers(1, 4))
def test_in_few_dimensions_the_tree_s_points_stay_on_the_sphere(tree: Taxonomy, width: int) -> None:
    phi = torch.tensor(tree_embedding(tree, width))
    assert phi.shape == (tree.leaves, width)
    length = phi.norm(dim=1)
    assert ((length - 1).abs().minimum(length) < 1e-9).all(), "each is of length 1, or has no place at all"
    assert (length > 0.5).any()


# ---------------------------------------------------------------------- DeViSE
@few
@given(tree=trees(), seed=seeds, gap=st.floats(0.05, 0.8))
def test_devise_is_the_naive_loop(tree: Taxonomy, seed: int, gap: float) -> None:
    e = draw(seed + 2, tree.leaves, D)
    y, share_NC, z = labels(seed, tree.leaves), torch.softmax(draw(seed + 1, N, tree.leaves), 1), draw(seed, N, D)

    def cosine(z: Tensor, c: int) -> Tensor:
        return (z * e[c]).sum() / ((z * z).sum().sqrt() * e[c].norm())

    def naive(z: Tensor, share_C: Tensor) -> Tensor:
        own = sum(share_C[c] * cosine(z, c) for c in range(tree.leaves))
        hinges = (gap - own + cosine(z, c) for c in range(tree.leaves))
        return sum((1 - t) * hinge for t, hinge in zip(share_C, hinges, strict=True) if hinge > 0)

    def found(z: Tensor, target_NC: Tensor | None) -> Tensor:
        unit = normalize(e, dim=1)
        return devise(Batch(z, z, y, tree=tree, labels=[unit], target_NC=target_NC), gap=gap)

    onehot = torch.nn.functional.one_hot(y, tree.leaves).double()
    for target_NC, share in ((None, onehot), (share_NC, share_NC)):

        def loops(z: Tensor, share: Tensor = share) -> Tensor:
            return torch.stack([naive(z[n], share[n]) + 0 * z[n].sum() for n in range(N)])

        if loops(z).abs().max() > 0:
            assert_same(lambda z, target_NC=target_NC: found(z, target_NC), loops, z)
        else:
            assert not found(z, target_NC).any()


def test_devise_with_one_negative_is_the_triplet() -> None:
    y, z, e = labels(1, 2), draw(2, N, D), normalize(draw(3, 2, D), dim=1)
    batch = Batch(z, z, y, tree=Taxonomy.from_groups({"all": ["a", "b"]}), labels=[e])
    expected = losses.triplet_loss(z, e[y], e[1 - y], margin=0.3)
    torch.testing.assert_close(devise(batch, gap=0.3), expected)

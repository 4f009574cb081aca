"""Every loss against plain loops, in value and gradient, in double precision; and the identities they must keep."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from laresa import losses
from laresa.hierarchy import hierarchy
from laresa.taxonomy import Taxonomy

N, D = 5, 4
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
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(seed: int, classes: int, count: int = N) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def assert_same(loss: Callable[[Tensor], Tensor], naive: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Equal values, and equal gradients of a random combination of them."""
    results = []
    for function in (loss, naive):
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad((value * draw(99, *value.shape)).sum(), leaf)
        results.append((value.detach(), gradient))
    (value, gradient), (naive_value, naive_gradient) = results
    torch.testing.assert_close(value, naive_value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, naive_gradient, rtol=1e-9, atol=1e-11)
    assert naive_gradient.abs().max() > 1e-6  # a gradient of zeros would prove nothing


# ---------------------------------------------------------------------- plain loops
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


# ---------------------------------------------------------------------- LARESA
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
    assert_same(losses.center_loss, lambda z: sum((sum(z[:, i]) / N) ** 2 for i in range(D)), draw(7, N, D))


def test_variance_is_the_naive_loop() -> None:
    z = 2 * draw(8, N, D)
    assert_same(losses.variance_loss, naive_variance, z)
    assert_same(lambda z: losses.variance_loss(z, reduction="mean"), lambda z: naive_variance(z) / D, z)
    torch.testing.assert_close(losses.variance_loss(z), (z.std(0) - 1).square().sum())
    with pytest.raises(ValueError, match="reduction='max'"):
        losses.variance_loss(z, reduction="max")


def test_hand_written_gradients_pass_gradcheck() -> None:
    unit = normalize(draw(10, N, 3, D), dim=2)
    assert torch.autograd.gradcheck(lambda z: losses.cosines(z, unit), draw(9, N, D).requires_grad_())
    assert torch.autograd.gradcheck(losses.moments, draw(9, N, D).requires_grad_())


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


# ---------------------------------------------------------------------- losses over a tree
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

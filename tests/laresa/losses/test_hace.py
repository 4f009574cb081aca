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
from laresa.batch import Batch
from laresa.config import TrialConfig
from laresa.errors import ConfigError
from laresa.losses.hace import hace
from laresa.taxonomy import Taxonomy
from laresa.terms import head_of
from tests.laresa.checks import FOREST, N, assert_same, draw, few, labels, naive_mass, over_trees, seeds, trees


def naive_leaves(y: int, tree: Taxonomy, smoothing: float, soft_beta: float = 0.0) -> list[float]:
    """Step 1: what each leaf's share of the target is."""
    leaves = range(tree.leaves)
    far = max(tree.lca_height(i, j) for i in leaves for j in leaves)
    own = [math.exp(-soft_beta * tree.lca_height(j, y) / far) if soft_beta else float(j == y) for j in leaves]
    own = [share / sum(own) for share in own]
    rest = smoothing / (tree.leaves - 1)
    return [(1 - smoothing) * share + rest * (1 - share) for share in own]


def naive_hace(logits: Tensor, leaf: list[float], tree: Taxonomy, d: float, epsilon: float = 0.0) -> Tensor:
    """Step 2 node by node up each path; epsilon: as the authors' code takes its logarithm."""
    p = torch.exp(logits) / torch.exp(logits).sum()
    loss = logits.new_zeros(())
    for t, share in enumerate(leaf):
        for node in tree.path(t):
            kept = share if tree.parents[node] < 0 else share * d
            share -= kept
            loss = loss - kept * torch.log(naive_mass(p, tree, node) + epsilon)
    return loss


@few
@given(
    tree=trees(),
    seed=seeds,
    d=st.floats(0.05, 1.0),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    beta=st.sampled_from([0.0, 2.0, 20.0]),
)
def test_hace_is_the_naive_loop(tree: Taxonomy, seed: int, d: float, smoothing: float, beta: float) -> None:
    y = labels(seed, tree.leaves)
    targets = [naive_leaves(int(label), tree, smoothing, beta) for label in y]
    assert_same(
        lambda x: losses.hace_loss(x, y, tree, dilution=d, smoothing=smoothing, soft_beta=beta),
        lambda x: torch.stack([naive_hace(x[n], targets[n], tree, d) for n in range(N)]),
        draw(seed, N, len(tree.parents)),
    )


@few
@given(tree=trees(), seed=seeds, smoothing=st.sampled_from([0.0, 0.1]), beta=st.sampled_from([0.0, 4.0]))
def test_mixed_targets_count_by_their_shares(tree: Taxonomy, seed: int, smoothing: float, beta: float) -> None:
    share_NC = torch.softmax(draw(seed + 1, N, tree.leaves), 1)
    classes = torch.arange(tree.leaves)

    def one(x: Tensor) -> Tensor:
        return losses.hace_loss(
            x.expand(tree.leaves, -1), classes, tree, dilution=0.6, smoothing=smoothing, soft_beta=beta
        )

    def mixed(x: Tensor) -> Tensor:
        batch = Batch(x, x, share_NC.argmax(1), tree=tree, target_NC=share_NC)
        return hace(batch, dilution=0.6, smoothing=smoothing, soft_beta=beta)

    assert_same(
        mixed,
        lambda x: torch.stack([(share_NC[n] * one(x[n])).sum() for n in range(N)]),
        draw(seed, N, len(tree.parents)),
    )


@over_trees
def test_the_authors_own_form_agrees_where_no_mass_is_small(tree: Taxonomy) -> None:
    y, x = labels(1, tree.leaves), 0.3 * draw(2, N, len(tree.parents))
    theirs = [naive_hace(x[n], naive_leaves(int(y[n]), tree, 0.1), tree, 0.7, 1e-6) for n in range(N)]
    found = losses.hace_loss(x, y, tree, dilution=0.7, smoothing=0.1)
    torch.testing.assert_close(found, torch.stack(theirs), rtol=0, atol=1e-4)


@few
@given(tree=trees(), seed=seeds, d=st.floats(0.05, 0.95))
def test_hace_identities(tree: Taxonomy, seed: int, d: float) -> None:
    """(a) to (d): minimum 0 at the one-hot; HXE with other weights; cross-entropy at d = 1; the gradient's form."""
    y, x = labels(seed, tree.leaves), draw(seed, N, len(tree.parents)).requires_grad_()
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
    leaf_only[:, tree.leaves :] = -torch.inf
    torch.testing.assert_close(
        losses.hace_loss(leaf_only, y, tree, dilution=1.0),
        cross_entropy(leaf_only[:, : tree.leaves], y, reduction="none"),
    )
    whole = x.detach()
    torch.testing.assert_close(
        losses.hace_loss(whole, y, tree, dilution=1.0),
        cross_entropy(whole, y, reduction="none"),
        msg=lambda text: f"all on the leaf is cross-entropy over the nodes: {text}",
    )
    torch.testing.assert_close(
        losses.hace_loss(whole, y, tree, dilution=d, soft_beta=1e7), losses.hace_loss(whole, y, tree, dilution=d)
    )


def test_hace_keeps_its_gradient_where_probabilities_underflow() -> None:
    """In float32 a logit 200 below the others has probability 0: the 1e-6 form goes flat, log space does not."""
    x = torch.zeros(1, len(FOREST.parents))
    x[0, [0, 1, 5]] = -200.0
    x.requires_grad_()
    loss_N = losses.hace_loss(x, torch.tensor([0]), FOREST, dilution=0.7)
    loss_N.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, [0, 1, 5]].sum(), torch.tensor(-1.0))
    assert loss_N.item() > 190
    assert naive_hace(x[0].detach(), [1.0, 0, 0, 0, 0], FOREST, 0.7, 1e-6).item() < 14


def test_a_great_logit_is_no_infinity() -> None:
    x = torch.zeros(1, len(FOREST.parents), requires_grad=True)
    loss_N = losses.hace_loss(
        1e4 * x + torch.tensor([1e4, 0, 0, 0, 0, -1e4, 0]), torch.tensor([2]), FOREST, dilution=0.5
    )
    loss_N.sum().backward()
    assert loss_N.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dilution", [0.0, -0.1, 1.1, math.nan])
def test_a_dilution_outside_its_range_is_refused(dilution: float) -> None:
    with pytest.raises(ValueError, match="dilution"):
        losses.hace_loss(torch.zeros(1, len(FOREST.parents)), torch.tensor([0]), FOREST, dilution=dilution)
    with pytest.raises(ConfigError, match=r"hace\.dilution"):
        TrialConfig(subset="hace", **{"hace.dilution": dilution})


@over_trees
def test_the_answer_is_the_greatest_of_all_nodes_or_of_the_leaves_by_name(tree: Taxonomy) -> None:
    x = draw(5, N, len(tree.parents))
    x[0, -1] = 9.0  # an internal node on top
    for prediction, width in (("node", len(tree.parents)), ("leaf", tree.leaves)):
        config = TrialConfig(subset="hace", **{"hace.prediction": prediction})
        log_p = head_of("hace", config.values("hace")).log_leaf(x, tree)
        torch.testing.assert_close(log_p, x[:, :width].log_softmax(1))
    assert TrialConfig(subset="hace").values("hace")["prediction"] == "node"  # as the authors predict
    with pytest.raises(ConfigError, match="prediction"):
        TrialConfig(subset="hace", **{"hace.prediction": "root"})

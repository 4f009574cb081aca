"""What the tests of the losses share: seeded inputs, and the comparison with plain loops in value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from laresa.methods import Result
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


@st.composite
def trees(draw: st.DrawFn) -> Taxonomy:
    """Any depth, uneven leaves, nodes of one child, one tree or several; never flat."""
    leaves, inner, rooted = draw(st.integers(2, 6)), draw(st.integers(1, 6)), draw(st.booleans())
    above = [draw(st.none() | st.integers(k + 1, inner - 1)) if k + 1 < inner else None for k in range(inner)]
    paths: dict[str, list[str]] = {}
    for leaf in range(leaves):
        node: int | None = draw(st.integers(0, inner - 1))
        path: list[str] = []
        while node is not None:
            path.append(f"node {node}")
            node = above[node]
        paths[f"leaf {leaf}"] = [*path, *(["root"] if rooted else [])]
    return Taxonomy.from_paths(paths)


over_trees = pytest.mark.parametrize("tree", [FOREST, ROOTED, RAGGED], ids=["forest", "rooted", "ragged"])
few = settings(max_examples=25)
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


def naive_mass(p: Tensor, tree: Taxonomy, node: int) -> Tensor:
    """Probability of a node and all below it."""
    return sum((p[j] for j in range(len(p)) if node in tree.path(j)), p.new_zeros(()))


def mixed_naively(naive: Callable[[Tensor, int], Tensor], x: Tensor, share_NC: Tensor) -> Tensor:
    """The mean of a sample's losses over all classes, by the target's shares (N)."""
    n, classes = share_NC.shape
    return torch.stack(
        [sum((share_NC[i, c] * naive(x[i], c) for c in range(classes)), x.new_zeros(())) for i in range(n)]
    )


def learned(result: Result) -> dict[str, object]:
    """What a trial learnt, without when and how fast."""
    epochs = [(m.epoch, dict(m.metrics)) for m in result.history]
    metrics = {name: value for name, value in result.metrics.items() if name != "seconds/train"}
    return {"epochs": epochs, "metrics": metrics, "weights": {k: v.tolist() for k, v in result.weights.items()}}

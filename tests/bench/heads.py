"""Heads trained as one: against this machine's own matrix product, and against the same heads one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from laresa.config import TrialConfig
from laresa.data import load
from laresa.data.dataset import Dataset, make_dataset
from laresa.features import Features
from laresa.methods.heads import Heads
from laresa.methods.heads.stack import Stack
from tests.bench.timing import pairwise, row

HEADS, LATENT = 64, 384
SUBSET = "ce+anchor+triplet+reg"
GEMM = 2048


def gemm_share() -> list[dict[str, object]]:
    """64 heads with four terms on 1280 features, batch 128: their FLOP a second, as share of a plain product's."""
    return [_share(1, 0.75), _share(2, 0.68)]


def _share(threads: int, goal: float) -> dict[str, object]:
    """Training steps only; 4 FLOP a weight and sample of the first layer, whose input needs no gradient, else 6."""
    with _threads(threads):
        data = _data(1024)
        group = _group(data, 1280, 128)
        (stack,) = group._stacked()
        flop = HEADS * len(data.train) * (4 * 1280 * LATENT + 6 * LATENT * data.taxonomy.leaves)
        a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
        trained, product, _ = pairwise(lambda: group._train(stack), lambda: torch.mm(a, b), 5)
    ours, plain = flop / trained / 1e9, 2 * GEMM**3 / product / 1e9
    note = f"{threads} threads, 1280 features, batch 128, {SUBSET}; baseline: {GEMM}-cubed product. Goal {goal}"
    return row(f"{HEADS} heads as one, products", ours, "GFLOPS", plain, ours / plain, note)


def small_heads() -> list[dict[str, object]]:
    """64 heads as one against the same one after another, at the widths where overhead rules."""
    return [_small(192), _small(64)]


def _small(width: int) -> dict[str, object]:
    with _threads(2):
        data = _data(512)
        group = _group(data, width, 32)
        (stack,) = group._stacked()
        singles = [Stack([head]) for head in _group(data, width, 32)._stacked()[0].heads]
        a, b, _ = pairwise(lambda: group._train(stack), lambda: [group._train(single) for single in singles], 3)
    note = f"2 threads, {width} features, batch 32, {SUBSET}, an epoch of 16 steps; baseline: one after another"
    return row(f"{HEADS} small heads as one", a, "s", b, b / a, f"{note}. Ratio: times as fast, goal 3")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def _data(train: int) -> Dataset:
    """Pictures that nobody looks at, with emoji120's classes."""
    tree = load(TrialConfig(dataset="emoji120")).taxonomy
    draw = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(tree.leaves, (count,), generator=draw)
        return torch.randint(256, (count, 3, 4, 4), generator=draw, dtype=torch.uint8), labels

    return make_dataset("noise", tree, train=part(train), val=part(32), test=part(32))


def _group(data: Dataset, width: int, batch: int) -> Heads:
    """Heads on random features, each with a seed and learning rate of its own, at their beginning."""
    base = TrialConfig(
        method="heads", backbone="tf_efficientnet_lite0", subset=SUBSET, batch_size=batch, epochs=1000, patience=1000
    )
    configs = [base.replace(seed=seed, lr=1e-3 * 1.01**seed) for seed in range(HEADS)]
    draw = torch.Generator().manual_seed(1)
    parts = {f"{n}_NF": torch.randn(len(getattr(data, n)), width, generator=draw) for n in ("train", "val", "test")}
    group = Heads(configs, data, torch.device("cpu"), HEADS, features=Features(**parts, key="noise", weights=""))
    group._refill()
    return group

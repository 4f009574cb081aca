"""Heads trained as one: against this machine's own matrix product, the same one after another, trials of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from laresa.config import TrialConfig
from laresa.data import load
from laresa.data.dataset import Dataset, make_dataset
from laresa.features import Features
from laresa.methods.heads import Heads
from laresa.methods.heads.stack import Stack
from laresa.model import default_device
from tests.bench.processes import laresa, python
from tests.bench.timing import pairwise, place, row, threads

HEADS, LATENT = 64, 384
SUBSET = "ce+anchor+triplet+reg"
GEMM = 2048
CPU = torch.device("cpu")


def gemm_share() -> list[dict[str, object]]:
    """64 heads with four terms on 1280 features, batch 128: their FLOP a second, as share of a plain product's."""
    return [_share(1, 0.75), _share(2, 0.68)]


def _share(count: int, goal: float) -> dict[str, object]:
    """Training steps only; 4 FLOP a weight and sample of the first layer, whose input needs no gradient, else 6."""
    with threads(count):
        data = _data(1024)
        group = _group(data, 1280, 128)
        (stack,) = group._stacked()
        flop = HEADS * len(data.train) * (4 * 1280 * LATENT + 6 * LATENT * data.taxonomy.leaves)
        a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
        trained, product, _ = pairwise(lambda: group._train(stack), lambda: torch.mm(a, b), 5)
    ours, plain = flop / trained / 1e9, 2 * GEMM**3 / product / 1e9
    note = f"{count} threads, 1280 features, batch 128, {SUBSET}; baseline: {GEMM}-cubed product. Goal {goal}"
    return row(f"{HEADS} heads as one, products", ours, "GFLOPS", plain, ours / plain, note)


def small_heads() -> list[dict[str, object]]:
    """64 heads as one against the same one after another, at the widths where overhead rules; of a GPU any width."""
    if torch.cuda.is_available():
        return [_one_after_another(*shape, goal=15) for shape in ((1280, 128), (192, 32), (64, 32))]
    return [_one_after_another(*shape, goal=3) for shape in ((192, 32), (64, 32))]


def _one_after_another(width: int, batch: int, goal: float) -> dict[str, object]:
    device = default_device()
    with threads(2):
        data = _data(16 * batch)
        group = _group(data, width, batch, device=device)
        (stack,) = group._stacked()
        singles = [Stack([head]) for head in _group(data, width, batch, device=device)._stacked()[0].heads]
        a, b, _ = pairwise(lambda: group._train(stack), lambda: [group._train(single) for single in singles], 3)
        where = place()
    note = f"{where}, {width} features, batch {batch}, {SUBSET}, an epoch of 16 steps; baseline: one after another"
    return row(f"{HEADS} heads as one", a, "s", b, b / a, f"{note}. Ratio: times as fast, goal {goal}")


def memory() -> list[dict[str, object]]:
    """What a head more takes, between groups of 8 and of 64."""
    code = """
import sys, torch
from tests.bench.heads import _data, _group
from tests.bench.processes import laresa, python
from tests.bench.timing import peak_mib
data = _data(1024)
group = _group(data, 1280, 128, heads=int(sys.argv[1]))
group.epoch()
print(peak_mib())
"""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (float(python(["-c", code, str(k)], Path(folder)).split()[-1]) for k in (8, HEADS))
    each, weights = (many - few) / (HEADS - 8), (1280 * LATENT + LATENT * 120) * 4 / 2**20
    note = f"1280 features, batch 128, {SUBSET}, Adam; baseline: a head's weights. {HEADS} heads: {many:.0f} MiB in all"
    return [row("memory of a head", each, "MiB", weights, each / weights, note)]


def against_trials() -> list[dict[str, object]]:
    """64 trials of emoji120 on real features, two workers, from command to end: as groups, and a trial at a time."""
    code = """
import argparse, sys, time
from laresa.features import PACKAGED
from sweeps import ablation
from sweeps.options import run_options
from sweeps.service.driver.runner import run
from sweeps.service.search import groups
parser = argparse.ArgumentParser()
ablation.add_options(parser)
name, pca, alone = sys.argv[1], sys.argv[2], sys.argv[3] == "alone"
groups.AT_ONCE = 1 if alone else groups.AT_ONCE
seeds = ",".join(str(seed) for seed in range(16))
arms = "ce,ce+anchor,ce+anchor+triplet,ce+anchor+triplet+reg"
args = parser.parse_args(["--tune", "0", "--features", PACKAGED, "--subsets", arms, "--seeds", seeds,
                          "--folds", ",".join(["0"] * 16), "--sweep", name,
                          *(["--set", f"heads.pca={pca}"] * (pca != "0"))])
started = time.perf_counter()
result = run(ablation.build(args), run_options(args))
assert result.states == {"finished": 64}, result.states
print(time.perf_counter() - started)
"""
    found = {}
    for pca in ("192", "0"):
        for how in ("together", "alone"):
            with tempfile.TemporaryDirectory() as folder:  # a home each: a sweep takes over what another has trained
                home = Path(folder)
                laresa(["data", "features", "emoji120", "--json"], home)
                laresa(["ui"], home)
                try:
                    out = python(["-c", code, f"{how}-{pca}", pca, how], home)
                finally:
                    laresa(["ui", "--stop"], home)
                found[pca, how] = float(out.split()[-1])
    rows = []
    for pca, width, goal in (("192", 192, "at least 2"), ("0", 1280, "at least 1")):
        ours, other = found[pca, "together"], found[pca, "alone"]
        note = f"{width} features, batch 32, 30 epochs, two workers, command to end; baseline: a Ray trial each, with "
        note += f"actor reuse. Ratio: times as fast, goal {goal}"
        rows.append(row(f"{HEADS} trials as groups", ours, "s", other, other / ours, note))
    return rows


def _data(train: int) -> Dataset:
    """Pictures that nobody looks at, with emoji120's classes."""
    tree = load(TrialConfig(dataset="emoji120")).taxonomy
    draw = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(tree.leaves, (count,), generator=draw)
        return torch.randint(256, (count, 3, 4, 4), generator=draw, dtype=torch.uint8), labels

    return make_dataset("noise", tree, train=part(train), val=part(32), test=part(32))


def _group(data: Dataset, width: int, batch: int, heads: int = HEADS, device: torch.device = CPU) -> Heads:
    """Heads on random features, each with a seed and learning rate of its own, at their beginning."""
    base = TrialConfig(
        method="heads", backbone="tf_efficientnet_lite0", subset=SUBSET, batch_size=batch, epochs=1000, patience=1000
    )
    configs = [base.replace(seed=seed, lr=1e-3 * 1.01**seed) for seed in range(heads)]
    draw = torch.Generator().manual_seed(1)
    parts = {f"{n}_NF": torch.randn(len(getattr(data, n)), width, generator=draw) for n in ("train", "val", "test")}
    group = Heads(configs, data, device, heads, features=Features(**parts, key="noise", weights=""))
    group._refill()
    return group

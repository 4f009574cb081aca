"""What is watched while a trial trains: latents of known rank, gradients against autograd's own, and when to freeze."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from laresa.config import TrialConfig
from laresa.data import Dataset
from laresa.features import Features
from laresa.measurement import Measurement
from laresa.methods.heads import Heads
from laresa.methods.watch import gradient_norms, gradient_shares, is_frozen, latent_metrics, watched
from laresa.metrics import nn_hit, silhouette
from laresa.objective import Objective
from laresa.training import fit
from tests.laresa.checks import FOREST, draw
from tests.laresa.methods.conftest import BASE

FULL = BASE.replace(subset="ce+anchor+triplet+reg")
LOOKS = {"latent/effective_rank", "latent/silhouette", "latent/nn_hit"}


def spread_over(rank: int, n: int = 400, d: int = 64) -> torch.Tensor:
    """Latents with `rank` directions of equal variance, and none beside."""
    random = draw(1, n, rank)
    left, _ = torch.linalg.qr(random - random.mean(0))
    right, _ = torch.linalg.qr(draw(2, d, rank))
    return left @ right.T


# ---------------------------------------------------------------------- looks
@pytest.mark.parametrize("rank", [1, 3, 40])
def test_the_rank_of_latents_is_known(rank: int) -> None:
    z, y = spread_over(rank), torch.arange(400) % FOREST.leaves
    found = latent_metrics(z, y, FOREST)
    assert set(found) == LOOKS
    assert found["latent/effective_rank"] == pytest.approx(rank)
    assert found["latent/silhouette"] == silhouette(z, torch.from_numpy(FOREST.parent_C)[y])
    assert found["latent/nn_hit"] == nn_hit(z, y, FOREST.parent_C)


def test_of_many_latents_some_are_looked_at() -> None:
    z = spread_over(3, 5000, 8)
    some = latent_metrics(z, torch.arange(5000) % FOREST.leaves, FOREST)
    assert some == latent_metrics(z[::3], (torch.arange(5000) % FOREST.leaves)[::3], FOREST)
    assert some["latent/effective_rank"] == pytest.approx(3, abs=0.1)


def test_latents_that_say_nothing_are_left_out() -> None:
    found = latent_metrics(torch.zeros(10, 4), torch.arange(10) % FOREST.leaves, FOREST)
    assert "latent/effective_rank" not in found


def test_which_epochs_are_watched() -> None:
    config = TrialConfig(epochs=12, watch_every=5)
    assert [number for number in range(1, 13) if watched(config, number)] == [1, 5, 10, 12]


# ---------------------------------------------------------------------- gradients
def test_norms_are_autograd_s_and_leave_the_graph() -> None:
    z = draw(3, 5, 4).requires_grad_()
    terms = [z.square().sum(), 3 * z[0, 0], torch.ones((), dtype=z.dtype, requires_grad=True)]
    expected = [2 * z.detach().norm().item(), 3.0, 0.0]
    torch.testing.assert_close(gradient_norms(terms, z).tolist(), expected, rtol=1e-6, atol=0)
    sum(terms).backward()
    stacked = torch.stack([z.detach(), 2 * z.detach()]).requires_grad_()
    norm_KT = gradient_norms([stacked.square().sum((1, 2)), stacked[:, 0, 0]], stacked)
    torch.testing.assert_close(norm_KT.tolist(), [[expected[0], 1.0], [2 * expected[0], 1.0]], rtol=1e-6, atol=0)


def test_shares_are_weight_times_norm() -> None:
    objective = Objective(TrialConfig(subset="ce+reg", weighting="fixed", **{"fixed.weights": [2.0, 1.0, 1.0]}))
    shares = gradient_shares(objective, torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 6.0]))
    assert shares == pytest.approx({"gradient/ce": 0.25, "gradient/center": 0, "gradient/variance": 0.75})
    assert gradient_shares(objective, torch.ones(3), torch.zeros(3)) == {}
    assert gradient_shares(objective, torch.ones(3), torch.tensor([1, math.nan, 1])) == {}
    assert gradient_shares(Objective(TrialConfig(subset="ce")), torch.ones(1), torch.ones(1)) == {}


# ---------------------------------------------------------------------- freezing
def history(values: list[float | None], name: str = "latent/silhouette") -> list[Measurement]:
    return [
        Measurement(n, {"val/top1": 0.5, **({} if v is None else {name: v})}, 0.1, 0) for n, v in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([0.1, 0.2, 0.2, 0.1], False),
        ([0.1, 0.2, 0.2, 0.1, 0.2], True),
        ([0.1, None, None, None], False),  # nobody looked
        ([0.1, None, None, 0.1], True),
        ([0.2, 0.1, 0.1, 0.1, 0.9], True),  # frozen stays frozen
    ],
)
def test_a_plateau_is_patience_epochs_without_a_better_silhouette(values: list[float | None], expected: bool) -> None:
    assert is_frozen("plateau", history(values), 3) == expected


def test_a_flat_data_set_s_plateau_is_that_of_the_accuracy() -> None:
    assert is_frozen("plateau", history([0.5, 0.5, 0.5], "val/top1"), 2)
    assert not is_frozen("plateau", history([0.5, 0.6, 0.7], "val/top1"), 2)


def test_an_epoch_freezes_from_then_on() -> None:
    assert [is_frozen(3, history([0.1] * n), 1) for n in range(4)] == [False, False, True, True]
    assert not is_frozen(None, history([0.1] * 9), 1)


# ---------------------------------------------------------------------- in training
def looks(metrics: dict[str, float]) -> set[str]:
    return {name for name in metrics if name.startswith(("latent/", "gradient/"))}


def of_heads(data: Dataset, features: Features, *configs: TrialConfig) -> list[list[Measurement]]:
    heads = Heads(configs, data, torch.device("cpu"), features=features)
    while not all(heads.done):
        list(heads.epoch())
    return [heads.result(k).history for k in range(len(configs))]


@pytest.mark.usefixtures("one_thread")
def test_heads_are_watched_when_it_is_their_turn(data: Dataset, features: Features) -> None:
    plateau = FULL.replace(epochs=9, lr=0.05, freeze_alpha="plateau", freeze_patience=1)
    often, seldom, alone, frozen = of_heads(data, features, FULL, FULL.replace(watch_every=9), BASE, plateau)
    shares = {f"gradient/{part}" for part in ("ce", "anchor", "triplet", "center", "variance")}
    assert [looks(m.metrics) for m in often] == [LOOKS | shares] * 3
    assert [looks(m.metrics) for m in seldom] == [LOOKS | shares, set(), LOOKS | shares]
    assert [looks(m.metrics) for m in alone] == [LOOKS] * 3
    assert all(sum(m.metrics[name] for name in shares) == pytest.approx(1) for m in often)
    stays = [a.metrics["weight/ce"] == b.metrics["weight/ce"] for a, b in pairwise(frozen)]
    assert stays == [is_frozen("plateau", frozen[:n], 1) for n in range(1, 9)]
    assert {True, False} == set(stays)


def test_networks_are_watched_and_frozen_alike(tiny: Dataset, config: TrialConfig) -> None:
    config = config.replace(epochs=4, watch_every=3, freeze_alpha=2, freeze_beta=3, augment="none")
    trained = fit(config, dataset=tiny).history
    assert [len(looks(m.metrics)) for m in trained] == [8, 0, 8, 8]
    alpha, beta = ([m.metrics[name] for m in trained] for name in ("weight/ce", "beta/fine"))
    assert alpha == [alpha[0]] * 4
    assert beta[0] != beta[1]
    assert beta[1:] == [beta[1]] * 3

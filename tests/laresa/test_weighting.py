"""The seven weightings: their gradients against formulas, their shares, and the collapse that they cause or prevent."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laresa import weighting
from laresa.config import TrialConfig
from laresa.objective import Objective
from laresa.plugins import table
from laresa.weighting import Weighting

L = torch.tensor([3.0, 0.9, 0.15, 0.02, 0.5], dtype=torch.float64)  # ce, anchor, triplet, center, variance
ALPHA = torch.tensor([0.3, -0.2, 0.9, 0.0, 1.4], dtype=torch.float64)
PRIOR = torch.tensor([2.0, 1.0, 1.0, 0.5, 0.5], dtype=torch.float64)
every_rule = pytest.mark.parametrize("rule", table("WEIGHTINGS"))


def make(rule: str, **fields: Any) -> Weighting:
    module = Objective(TrialConfig(weighting=rule, **fields)).weighting
    assert module is not None
    return module


def train(module: Weighting, steps: int, values: Tensor | None = None) -> None:
    """Adam, 1e-3, on losses that never change: what the weighting does by itself."""
    values = L.float() if values is None else values
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3) if list(module.parameters()) else None
    for _ in range(steps):
        total = module(values)
        if optimizer is not None:
            optimizer.zero_grad()
            total.backward()
            optimizer.step()


def gradient(function: Any, alpha_T: Tensor) -> tuple[Tensor, Tensor]:
    """(value, d value / d alpha)."""
    leaf = alpha_T.clone().requires_grad_()
    total, *_ = function(leaf)
    return total.detach(), torch.autograd.grad(total, leaf)[0]


# ---------------------------------------------------------------------- formulas
def test_softmax_gradient_is_w_times_the_loss_above_the_total() -> None:
    total, slope = gradient(lambda a: weighting.softmax(L, a, {}), ALPHA)
    w = ALPHA.exp() / ALPHA.exp().sum()
    torch.testing.assert_close(total, sum(w[i] * L[i] for i in range(5)))
    torch.testing.assert_close(slope, w * (L - total))


def test_fixed_takes_the_scalars_as_they_are() -> None:
    total, share, _ = weighting.fixed(L, ALPHA, {}, weights=PRIOR)
    assert total.item() == pytest.approx(2 * 3.0 + 0.9 + 0.15 + 0.5 * 0.02 + 0.5 * 0.5)
    torch.testing.assert_close(share, PRIOR / 5)
    assert not list(make("fixed").parameters())


def test_uncertainty_is_kendalls() -> None:
    total, slope = gradient(lambda s: weighting.uncertainty(L, s, {}), ALPHA)
    torch.testing.assert_close(total, sum(L[i] * torch.exp(-ALPHA[i]) / 2 + ALPHA[i] / 2 for i in range(5)))
    torch.testing.assert_close(slope, (1 - L * torch.exp(-ALPHA)) / 2)
    _, share, _ = weighting.uncertainty(L, ALPHA, {})
    torch.testing.assert_close(share, torch.exp(-ALPHA) / torch.exp(-ALPHA).sum())


def test_kl_adds_the_price_of_leaving_the_prior() -> None:
    total, slope = gradient(lambda a: weighting.kl(L, a, {}, prior=PRIOR, tau=0.7), ALPHA)
    w, prior = ALPHA.softmax(0), PRIOR / PRIOR.sum()
    cost = L + 0.7 * torch.log(w / prior)
    torch.testing.assert_close(total, (w * L).sum() + 0.7 * sum(w[i] * torch.log(w[i] / prior[i]) for i in range(5)))
    torch.testing.assert_close(slope, w * (cost - (w * cost).sum()))
    at_prior, *_ = weighting.kl(L, torch.log(prior), {}, prior=PRIOR, tau=100.0)
    torch.testing.assert_close(at_prior, (prior * L).sum())


def test_floor_mixes_with_equal_weights() -> None:
    total, slope = gradient(lambda a: weighting.floor(L, a, {}, eps=0.4), ALPHA)
    w = ALPHA.softmax(0)
    torch.testing.assert_close(total, 0.6 * (w * L).sum() + 0.4 * L.mean())
    torch.testing.assert_close(slope, 0.6 * w * (L - (w * L).sum()))


def test_base_outside_weighs_only_the_others() -> None:
    total, slope = gradient(lambda a: weighting.base_outside(L, a, {}, scale=2.0), ALPHA[1:])
    w = ALPHA[1:].softmax(0)
    torch.testing.assert_close(total, L[0] + 2 * (w * L[1:]).sum())
    torch.testing.assert_close(slope, 2 * w * (L[1:] - (w * L[1:]).sum()))
    _, share, _ = weighting.base_outside(L, ALPHA[1:], {}, scale=2.0)
    assert share[0].item() == pytest.approx(1 / 3)


def test_normalised_divides_by_the_running_mean() -> None:
    module = make("normalised").double()
    series = [L, 2 * L, torch.ones(5, dtype=torch.float64)]
    mean, mass = [0.0] * 5, 0.0
    for values in series:
        mass = 0.99 * mass + 0.01
        mean = [0.99 * m + 0.01 * float(v) for m, v in zip(mean, values, strict=True)]
        leaf = values.clone().requires_grad_()
        total = module(leaf)
        expected = torch.tensor([float(v) / (m / mass) for m, v in zip(mean, values, strict=True)], dtype=torch.float64)
        torch.testing.assert_close(total.detach(), expected.mean())
        total.backward()  # the mean is a constant to the gradient
        torch.testing.assert_close(leaf.grad, torch.tensor([mass / m / 5 for m in mean], dtype=torch.float64))
        torch.testing.assert_close(module.alpha.grad, (expected - expected.mean()) / 5)
        module.alpha.grad = None
    before = module.memory_mean.clone()
    module.eval()(100 * L)
    assert torch.equal(module.memory_mean, before)


def test_normalised_survives_a_loss_of_zero() -> None:
    module = make("normalised")
    values = torch.tensor([3.0, 0.9, 0.0, 0.0, 0.5])
    train(module, 50, values)
    total = module(torch.tensor([3.0, 0.9, 1e-3, 0.0, 0.5]))
    assert total.isfinite()
    assert total < 100


@pytest.mark.parametrize("rule", ["softmax", "uncertainty", "kl", "floor", "base_outside"])
def test_gradients_pass_finite_differences(rule: str) -> None:
    module = make(rule, **({"kl.prior": PRIOR.tolist()} if rule == "kl" else {})).double().eval()
    alpha = (ALPHA[1:] if rule == "base_outside" else ALPHA).clone().requires_grad_()
    del module.alpha
    module.register_buffer("alpha", alpha)

    def total(alpha: Tensor, values: Tensor) -> Tensor:
        module.alpha = alpha
        return module(values)

    assert torch.autograd.gradcheck(total, (alpha, L.clone().requires_grad_()))


# ---------------------------------------------------------------------- shares
@every_rule
@settings(max_examples=20)
@given(st.lists(st.floats(-30, 30), min_size=5, max_size=5))
def test_shares_are_a_distribution_and_do_not_depend_on_the_losses(rule: str, logits: list[float]) -> None:
    module = make(rule).double()
    if "alpha" in dict(module.named_parameters()):
        with torch.no_grad():
            module.alpha.copy_(torch.tensor(logits[: len(module.alpha)]))
    before = copy.deepcopy(module.state_dict())
    shares = module.shares()
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert shares.sum().item() == pytest.approx(1)
    assert (shares >= 0).all()
    torch.testing.assert_close(module.weigh(L, module.state())[1].detach(), shares)


def test_a_floor_holds() -> None:
    module = make("floor", **{"floor.eps": 0.5}, alpha_init=(-50.0, 0.0, 0.0, 0.0, 0.0))
    assert module.shares()[0].item() == pytest.approx(0.1)


# ---------------------------------------------------------------------- collapse
def test_the_papers_weighting_collapses_by_itself() -> None:
    """On constant losses the softmax moves to the smallest term: ce is under 5% after some 1,250 steps of 1e-3."""
    module = make("softmax")
    train(module, 1500)
    assert 1150 < module.collapsed_at.item() < 1350
    assert module.step == 1500
    assert module.shares().argmax() == 3  # center, the smallest


@pytest.mark.parametrize("rule", ["fixed", "floor", "base_outside", "kl", "normalised"])
def test_the_remedies_do_not(rule: str) -> None:
    fields = {"kl": {"kl.tau": 10.0}}.get(rule, {})
    module = make(rule, **fields)
    train(module, 1500)
    assert module.collapsed_at == -1
    assert module.shares()[0] > 0.05


def test_the_first_step_under_the_threshold_is_kept_and_counted_in_training_only() -> None:
    module = make("softmax")
    for step, logit in enumerate([1.0, -9.0, 1.0, -9.0], start=1):
        with torch.no_grad():
            module.alpha[0] = logit
        module.eval()(L.float())
        module.train()(L.float())
        assert module.collapsed_at == (-1 if step < 2 else 2)
    assert module.step == 4


@every_rule
def test_resume_is_exact(rule: str) -> None:
    whole, first = make(rule), make(rule)
    series = torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) * L.float()

    def run(module: Weighting, optimizer: Any, values_ST: Tensor) -> None:
        for values in values_ST:
            total = module(values)
            if optimizer is not None:
                optimizer.zero_grad()
                total.backward()
                optimizer.step()

    def adam(module: Weighting) -> Any:
        return torch.optim.Adam(module.parameters(), lr=0.3) if list(module.parameters()) else None

    run(whole, adam(whole), series)
    optimizer = adam(first)
    run(first, optimizer, series[:17])
    second = make(rule)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = adam(second)
    if optimizer is not None:
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(second, resumed, series[17:])
    assert set(whole.state_dict()) == set(second.state_dict())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    if rule == "softmax":
        assert whole.collapsed_at > 0

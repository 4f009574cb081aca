"""Objective: the right terms, weighted, differentiable, reproducible, restorable; nothing for what is switched off."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from laresa import losses
from laresa.config import SUBSETS, WEIGHTINGS, TrialConfig
from laresa.errors import ConfigError, NonFiniteLossError
from laresa.objective import Objective, check_finite, negatives

N, D, C = 12, 6, 5
FULL = "ce+anchor+triplet+reg"


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


FINE, COARSE = 3 * draw(1, C, D), draw(2, 2, D)[[0, 0, 1, 1, 1]]
Y = torch.randint(C, (N,), generator=torch.Generator().manual_seed(3))


def make(subset: str = FULL, **fields: Any) -> Objective:
    return Objective(TrialConfig(subset=subset, **fields), FINE, COARSE)


def batch(seed: int = 4, count: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """(logits_NC, z_ND, y_N), the first two requiring gradients."""
    return draw(seed, count, C).requires_grad_(), draw(seed + 1, count, D).requires_grad_(), Y[:count]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expected_terms(logits: Tensor, z: Tensor, y: Tensor, other: Tensor, beta: Tensor) -> dict[str, Tensor]:
    """Each term by the public function of its equation."""
    return {
        "ce": cross_entropy(logits, y),
        "anchor": losses.anchor_loss(z, FINE[y], COARSE[y], beta).mean(),
        "triplet": losses.triplet_loss(z, FINE[y], FINE[other], margin=0.2).mean(),
        "center": losses.center_loss(z),
        "variance": losses.variance_loss(z),
    }


# ---------------------------------------------------------------------- values and gradients
def test_ce_alone_is_cross_entropy_to_the_bit_and_owns_nothing() -> None:
    objective = Objective(TrialConfig(subset="ce"))
    logits, z, y = batch()
    output = objective(logits, z, y)
    output.total.backward()
    reference = logits.detach().clone().requires_grad_()
    value = cross_entropy(reference, y)
    value.backward()
    assert torch.equal(output.total, value)
    assert torch.equal(logits.grad, reference.grad)
    assert z.grad is None
    assert not list(objective.parameters())
    assert not objective.state_dict()
    assert (objective.weights(), objective.entropy()) == ({"ce": 1.0}, 0.0)
    assert objective.beta() is None
    assert objective.collapse_step() is None


@pytest.mark.parametrize("subset", SUBSETS)
def test_total_and_gradients_are_those_of_the_equations(subset: str) -> None:
    objective = make(subset)
    logits, z, y = batch()
    output = objective(logits, z, y, seeded())
    output.total.backward()

    alpha = torch.ones(len(objective.parts), requires_grad=True)
    beta_logits = torch.ones(2, requires_grad=True)
    other = negatives(y, C, seeded()) if "triplet" in subset else y
    reference = [x.detach().clone().requires_grad_() for x in (logits, z)]
    terms = expected_terms(*reference, y, other, beta_logits.softmax(0))
    total = sum(w * terms[part] for w, part in zip(alpha.softmax(0), objective.parts, strict=True))
    total.backward()

    torch.testing.assert_close(output.total, total)
    assert output.names == objective.parts
    for part, value in output.terms.items():
        torch.testing.assert_close(value, terms[part].detach(), msg=part)
    assert not output.terms_T.requires_grad
    torch.testing.assert_close(logits.grad, reference[0].grad)
    if subset != "ce":
        torch.testing.assert_close(z.grad, reference[1].grad)
        torch.testing.assert_close(objective.weighting.alpha.grad, alpha.grad)
    if "anchor" in subset:
        torch.testing.assert_close(objective.beta_logits_2.grad, beta_logits.grad)


@pytest.mark.parametrize("subset", ["ce+center", "ce+variance", "ce+anchor+center"])
def test_halves_of_reg_stand_alone(subset: str) -> None:
    logits, z, y = batch()
    output = make(subset)(logits, z, y)
    terms = expected_terms(logits, z, y, y, torch.tensor([0.5, 0.5]))
    assert set(output.terms) == set(subset.split("+"))
    for part, value in output.terms.items():
        torch.testing.assert_close(value, terms[part].detach())


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("group_reg", [False, True])
def test_every_weighting_trains_and_reports(weighting: str, group_reg: bool) -> None:
    objective = make(weighting=weighting, group_reg=group_reg)
    output = objective(*batch(), seeded())
    output.total.backward()
    assert output.total.isfinite()
    assert output.terms_T.shape == (5,)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
    weights = objective.weights()
    assert tuple(weights) == objective.config.terms
    assert sum(weights.values()) == pytest.approx(1)
    assert objective.entropy() == pytest.approx(-sum(w * math.log(w) for w in weights.values()))


def test_grouped_reg_is_one_term_of_two_losses() -> None:
    objective = make(group_reg=True)
    output = objective(*batch(), seeded())
    ce, anchor, triplet, center, variance = output.terms_T
    torch.testing.assert_close(output.total.detach(), (ce + anchor + triplet + (center + variance)) / 4)
    assert objective.weighting.alpha.shape == (4,)


def test_options_reach_their_equation() -> None:
    logits, z, y = batch()
    terms = make(margin=0.9)(logits, z, y, seeded()).terms
    other = negatives(y, C, seeded())
    torch.testing.assert_close(
        terms["triplet"], losses.triplet_loss(z, FINE[y], FINE[other], margin=0.9).mean().detach()
    )
    terms = make(variance_reduction="mean")(logits, z, y, seeded()).terms
    torch.testing.assert_close(terms["variance"], losses.variance_loss(z, reduction="mean").detach())
    uneven = make(alpha_init=(4.0, 0.0, 0.0, 0.0, 0.0))
    ce = math.exp(4) / (math.exp(4) + 4)
    assert uneven.weights()["ce"] == pytest.approx(ce)
    assert uneven.entropy() == pytest.approx(-ce * math.log(ce) - (1 - ce) * math.log((1 - ce) / 4))


@pytest.mark.parametrize("learned", [True, False])
def test_beta(learned: bool) -> None:
    objective = make("ce+anchor", beta_init=(2.0, 0.0), beta_learned=learned)
    fine, coarse = objective.beta()
    assert fine == pytest.approx(1 / (1 + math.exp(-2)))
    assert fine + coarse == pytest.approx(1)
    assert ("beta_logits_2" in dict(objective.named_parameters())) == learned
    logits, z, y = batch()
    value = losses.anchor_loss(z, FINE[y], COARSE[y], torch.tensor([fine, coarse])).mean()
    torch.testing.assert_close(objective(logits, z, y).terms["anchor"], value.detach())


def test_a_batch_of_one() -> None:
    logits, z, y = batch(count=1)
    output = make()(logits, z, y, seeded())
    output.total.backward()
    assert output.terms["variance"] == 0
    assert z.grad.isfinite().all()


def test_bfloat16_inputs_are_computed_in_float32() -> None:
    logits, z, y = (x.detach() for x in batch())
    half = [x.bfloat16().requires_grad_() for x in (logits, z)]
    for subset in ("ce", FULL):
        with torch.autocast("cpu", torch.bfloat16):
            output = make(subset)(*half, y, seeded())
        reference = make(subset)(*(x.detach().float() for x in half), y, seeded())
        assert output.total.dtype == output.terms_T.dtype == torch.float32
        torch.testing.assert_close(output.total, reference.total, rtol=1e-6, atol=1e-6)
    output.total.backward()
    assert half[1].grad.dtype == torch.bfloat16


# ---------------------------------------------------------------------- negatives
def test_negatives_are_uniform_over_the_other_classes() -> None:
    y = torch.arange(C).repeat(4000)
    other = negatives(y, C, seeded())
    counts = torch.zeros(C, C).index_put_((y, other), torch.ones(len(y)), accumulate=True)
    assert not counts.diagonal().any()
    assert counts[~torch.eye(C, dtype=torch.bool)].min() > 1000 - 5 * math.sqrt(1000)
    assert torch.equal(negatives(torch.tensor([0, 1, 1, 0]), 2), torch.tensor([1, 0, 0, 1]))


def test_the_generator_decides_and_nothing_else() -> None:
    objective, inputs = make(), batch()
    values = [objective(*inputs, seeded(seed)).terms["triplet"].item() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    generator, state = seeded(), torch.get_rng_state()
    first, second = (objective(*inputs, generator).terms["triplet"].item() for _ in range(2))
    assert (first, first) != (second, values[1])
    assert first == values[0]
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------- state
def test_frozen_from_its_epoch_on() -> None:
    objective = make(freeze_epoch=3)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    history = []
    for epoch in range(1, 6):
        objective.set_epoch(epoch)
        for _ in range(2):
            total = objective(*batch(), seeded()).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        history.append((objective.weights(), objective.beta()))
    assert history[0] != history[1]
    assert history[1] == history[2] == history[4]
    objective.set_epoch(2)
    objective(*batch(), seeded()).total.backward()
    objective.set_epoch(3)
    optimizer.step()  # neither a gradient left over nor momentum moves what is frozen
    assert (objective.weights(), objective.beta()) == history[4]
    restored = make(freeze_epoch=3)
    restored.load_state_dict(objective.state_dict())
    restored.set_epoch(6)
    assert (restored.weights(), restored.beta()) == history[4]
    assert not any(p.requires_grad for p in restored.parameters())


def test_frozen_normalisation_keeps_its_means() -> None:
    objective = make(weighting="normalised", freeze_epoch=2)
    objective(*batch(), seeded())
    before = copy.deepcopy(objective.weighting.mean)
    objective.set_epoch(2)
    objective(*batch(8), seeded())
    assert torch.equal(objective.weighting.mean, before)
    objective.set_epoch(1)
    objective(*batch(8), seeded())
    assert not torch.equal(objective.weighting.mean, before)


def test_collapse_is_counted_in_steps_and_survives_a_resume() -> None:
    objective = make(alpha_init=(-9.0, 1.0, 1.0, 1.0, 1.0))
    assert objective.collapse_step() is None
    objective(*batch(), seeded())
    assert objective.collapse_step() == 1
    healthy = make()
    healthy(*batch(), seeded())
    resumed = make()
    resumed.load_state_dict(healthy.state_dict())
    with torch.no_grad():
        resumed.weighting.alpha[0] = -9
    resumed(*batch(), seeded())
    assert healthy.collapse_step() is None
    assert resumed.collapse_step() == 2


def test_embeddings_are_no_state() -> None:
    assert set(make().state_dict()) == {
        "beta_logits_2",
        "weighting.alpha",
        "weighting.step",
        "weighting.collapsed_at",
    }


def test_what_a_subset_lacks_is_said() -> None:
    with pytest.raises(ConfigError, match="needs label embeddings"):
        Objective(TrialConfig(subset="ce+triplet"))
    with pytest.raises(ConfigError, match="for anchor coarse"):
        Objective(TrialConfig(subset="ce+anchor"), FINE)
    with pytest.raises(ConfigError, match="one a FINE class"):
        Objective(TrialConfig(subset="ce+anchor"), FINE, COARSE[:2])
    with pytest.raises(ConfigError, match="second class"):
        Objective(TrialConfig(subset="ce+triplet"), FINE[:1])
    Objective(TrialConfig(subset="ce+triplet"), FINE)
    Objective(TrialConfig(subset="ce+reg"))


# ---------------------------------------------------------------------- not finite
def test_check_finite_names_the_step_and_the_term() -> None:
    names, fine = ("total", "ce", "center"), [3.0, 2.0, 1.0]
    check_finite(torch.tensor([fine, fine]), names, 1)
    with pytest.raises(NonFiniteLossError, match=r"nan at step 2 of epoch 17: ce = nan\."):
        check_finite(torch.tensor([fine, [torch.nan, torch.nan, 1.0], [torch.inf] * 3]), names, 17)
    with pytest.raises(NonFiniteLossError, match="inf at step 1 of epoch 3: ce = inf, center = inf"):
        check_finite(torch.tensor([[torch.inf] * 3, fine]), names, 3)
    with pytest.raises(NonFiniteLossError, match="step 1 of epoch 18: the weights"):
        check_finite(torch.tensor([[torch.nan, 2.0, 1.0]]), names, 18)

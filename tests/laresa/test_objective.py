"""Objective: the right terms, weighted, differentiable, reproducible, restorable; nothing for what is switched off."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from laresa import losses
from laresa.batch import Batch
from laresa.config import SUBSETS, TrialConfig
from laresa.errors import ConfigError, NonFiniteLossError
from laresa.objective import Objective, check_finite
from laresa.plugins import table
from laresa.taxonomy import Taxonomy
from laresa.weighting import Weighting

N, D, C = 12, 6, 5
TREE = Taxonomy.from_groups({"sea": ["crab", "eel"], "air": ["owl", "bat", "bee"]})
FULL = "ce+anchor+triplet+reg"


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


FINE, COARSE = 3 * draw(1, C, D), draw(2, 2, D)[[0, 0, 1, 1, 1]]
Y = torch.randint(C, (N,), generator=torch.Generator().manual_seed(3))


def make(subset: str = FULL, **fields: Any) -> Objective:
    return Objective(TrialConfig(subset=subset, **fields), TREE, (FINE, COARSE))


def inputs(seed: int = 4, count: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """(logits_NC, z_ND, y_N), the first two requiring gradients."""
    return draw(seed, count, C).requires_grad_(), draw(seed + 1, count, D).requires_grad_(), Y[:count]


def batch(objective: Objective, given: tuple[Tensor, ...] | None = None, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return objective.batch(*(given or inputs()), uniform=lambda shape: torch.rand(shape, generator=generator))


def others(objective: Objective) -> Tensor:
    """The negatives that `batch` draws."""
    return batch(objective).negative_N


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
    logits, z, y = inputs()
    output = objective(objective.batch(logits, z, y))
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
    assert not objective.learned()
    assert objective.collapse_step() is None


@pytest.mark.parametrize("subset", SUBSETS)
def test_total_and_gradients_are_those_of_the_equations(subset: str) -> None:
    objective = make(subset)
    logits, z, y = inputs()
    output = objective(batch(objective, (logits, z, y)))
    output.total.backward()

    alpha = torch.ones(len(objective.parts), requires_grad=True)
    beta_logits = torch.ones(2, requires_grad=True)
    other = others(objective)
    reference = [x.detach().clone().requires_grad_() for x in (logits, z)]
    terms = expected_terms(*reference, y, other, beta_logits.softmax(0))
    total = sum(w * terms[part] for w, part in zip(alpha.softmax(0), objective.parts, strict=True))
    total.backward()

    torch.testing.assert_close(output.total, total)
    assert output.names == objective.parts
    for part, value in output.terms.items():
        torch.testing.assert_close(value, terms[part].detach(), msg=part)
    torch.testing.assert_close(logits.grad, reference[0].grad)
    if subset != "ce":
        torch.testing.assert_close(z.grad, reference[1].grad)
        torch.testing.assert_close(objective.weighting.alpha.grad, alpha.grad)
    if "anchor" in subset:
        torch.testing.assert_close(objective.get_parameter("anchor/beta").grad, beta_logits.grad)


@pytest.mark.parametrize("subset", ["ce+center", "ce+variance", "ce+anchor+center"])
def test_halves_of_reg_stand_alone(subset: str) -> None:
    logits, z, y = inputs()
    objective = make(subset)
    output = objective(batch(objective, (logits, z, y)))
    terms = expected_terms(logits, z, y, y, torch.tensor([0.5, 0.5]))
    assert set(output.terms) == set(subset.split("+"))
    for part, value in output.terms.items():
        torch.testing.assert_close(value, terms[part].detach())


@pytest.mark.parametrize("weighting", table("WEIGHTINGS"))
@pytest.mark.parametrize("grouped", [False, True])
def test_every_weighting_trains_and_reports(weighting: str, grouped: bool) -> None:
    objective = make(weighting=weighting, group_weights=grouped)
    output = objective(batch(objective))
    output.total.backward()
    assert output.total.isfinite()
    assert output.terms_T.shape == (5,)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
    weights = objective.weights()
    assert tuple(weights) == ("ce", "anchor", "triplet", *(("reg",) if grouped else ("center", "variance")))
    assert sum(weights.values()) == pytest.approx(1)
    assert objective.entropy() == pytest.approx(-sum(w * math.log(w) for w in weights.values()))


def test_a_group_with_one_weight_is_one_term_of_two_losses() -> None:
    objective = make(group_weights=True)
    output = objective(batch(objective))
    ce, anchor, triplet, center, variance = output.terms_T.detach()
    torch.testing.assert_close(output.total.detach(), (ce + anchor + triplet + (center + variance)) / 4)
    assert objective.weighting.alpha.shape == (4,)


def test_fields_reach_their_equation() -> None:
    logits, z, y = inputs()
    objective = make(margin=0.9, **{"variance.reduction": "mean"}, alpha_init=(4.0, 0.0, 0.0, 0.0, 0.0))
    terms, other = objective(batch(objective, (logits, z, y))).terms, others(objective)
    torch.testing.assert_close(
        terms["triplet"], losses.triplet_loss(z, FINE[y], FINE[other], margin=0.9).mean().detach()
    )
    torch.testing.assert_close(terms["variance"], losses.variance_loss(z, reduction="mean").detach())
    ce = math.exp(4) / (math.exp(4) + 4)
    assert objective.weights()["ce"] == pytest.approx(ce)
    assert objective.entropy() == pytest.approx(-ce * math.log(ce) - (1 - ce) * math.log((1 - ce) / 4))


@pytest.mark.parametrize("learned", [True, False])
def test_beta(learned: bool) -> None:
    objective = make("ce+anchor", **{"anchor.beta": (2.0, 0.0), "anchor.beta_learned": learned})
    fine, coarse = objective.learned()["beta/fine"], objective.learned()["beta/coarse"]
    assert fine == pytest.approx(1 / (1 + math.exp(-2)))
    assert fine + coarse == pytest.approx(1)
    assert ("anchor/beta" in dict(objective.named_parameters())) == learned
    logits, z, y = inputs()
    value = losses.anchor_loss(z, FINE[y], COARSE[y], torch.tensor([fine, coarse])).mean()
    torch.testing.assert_close(objective(batch(objective, (logits, z, y))).terms["anchor"], value.detach())


def test_beta_over_every_level_of_a_deep_tree() -> None:
    """Beside HACE; classes whose path has ended go on with their top."""
    paths = {"crab": ("shell", "sea"), "clam": ("shell", "sea"), "eel": ("sea",), "owl": ("air",), "bat": ("air",)}
    tree = Taxonomy.from_paths({name: (*path, "all") for name, path in paths.items()})
    levels = [draw(seed, C, D) for seed in range(tree.levels)]
    config = TrialConfig(subset="hace+anchor", **{"anchor.beta": "tree"})
    objective = Objective(config, tree, levels)
    assert objective.learned() == pytest.approx({"beta/fine": 1 / 3, "beta/coarse": 1 / 3, "beta/level2": 1 / 3})
    logits, z, y = draw(8, N, len(tree.parents)).requires_grad_(), draw(9, N, D).requires_grad_(), Y
    output = objective(objective.batch(logits, z, y))
    expected = sum(1 - torch.nn.functional.cosine_similarity(z, levels[level][y]) for level in range(3)) / 3
    torch.testing.assert_close(output.terms["anchor"], expected.mean().detach())
    torch.testing.assert_close(output.terms["hace"], losses.hace_loss(logits, y, tree, dilution=0.7).mean().detach())
    output.total.backward()
    assert all(
        x.grad is not None and x.grad.abs().max() > 0 for x in (logits, z, objective.get_parameter("anchor/beta"))
    )
    several = Objective(config.replace(**{"anchor.beta": (1.0,) * 5}), tree, levels)
    with pytest.raises(ConfigError, match="'anchor' needs label embeddings of level 4: there are those of 4 levels"):
        several(several.batch(logits, z, y))
    with pytest.raises(ConfigError, match=r"anchor.beta='tree' needs a tree over the classes"):
        Objective(config, None, levels)


def test_a_batch_of_one() -> None:
    objective, given = make(), inputs(count=1)
    output = objective(batch(objective, given))
    output.total.backward()
    assert output.terms["variance"] == 0
    assert given[1].grad.isfinite().all()


def test_bfloat16_inputs_are_computed_in_float32() -> None:
    logits, z, y = (x.detach() for x in inputs())
    half = [x.bfloat16().requires_grad_() for x in (logits, z)]
    for subset in ("ce", FULL):
        objective = make(subset)
        with torch.autocast("cpu", torch.bfloat16):
            output = objective(batch(objective, (*half, y)))
        reference = make(subset)(batch(objective, (*(x.detach().float() for x in half), y)))
        assert output.total.dtype == output.terms_T.dtype == torch.float32
        torch.testing.assert_close(output.total, reference.total, rtol=1e-6, atol=1e-6)
    output.total.backward()
    assert half[1].grad.dtype == torch.bfloat16


# ---------------------------------------------------------------------- state
def test_what_is_frozen_keeps_its_value() -> None:
    objective = make()
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    history = []
    for epoch in range(1, 6):
        objective.freeze(alpha=epoch >= 3, beta=epoch >= 3)
        for _ in range(2):
            total = objective(batch(objective)).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        history.append((objective.weights(), objective.learned()))
    assert history[0] != history[1]
    assert history[1] == history[2] == history[4]
    objective.freeze(alpha=False, beta=False)
    objective(batch(objective)).total.backward()
    objective.freeze(alpha=True, beta=True)
    optimizer.step()  # neither a gradient left over nor momentum moves what is frozen
    assert (objective.weights(), objective.learned()) == history[4]
    restored = make()
    restored.load_state_dict(objective.state_dict())
    assert (restored.weights(), restored.learned()) == history[4]


@pytest.mark.parametrize(("alpha", "beta"), [(True, False), (False, True)])
def test_alpha_and_beta_are_frozen_apart(alpha: bool, beta: bool) -> None:
    objective = make()
    before = objective.weights(), objective.learned()
    objective.freeze(alpha=alpha, beta=beta)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    objective(batch(objective)).total.backward()
    optimizer.step()
    assert (objective.weights() == before[0], objective.learned() == before[1]) == (alpha, beta)


@pytest.mark.parametrize("weighting", table("WEIGHTINGS"))
def test_multipliers_are_what_the_losses_gradients_are_multiplied_by(weighting: str) -> None:
    objective = make(weighting=weighting, group_weights=True)
    losses_T = torch.tensor([2.0, 0.5, 0.25, 0.125, 3.0])
    objective.weighting(objective._grouped(losses_T))  # one that remembers has seen something
    found = objective.multipliers(losses_T)
    assert found[3] == found[4]  # one weight for both halves of reg
    if weighting == "softmax":
        torch.testing.assert_close(found, torch.full((5,), 0.25))
    assert found.isfinite().all()
    assert (found > 0).any()
    assert objective.weighting.step == 1


def test_frozen_normalisation_keeps_its_means() -> None:
    objective = make(weighting="normalised")
    means = []
    for epoch, seed in ((1, 4), (2, 8), (1, 8)):
        objective.freeze(alpha=epoch == 2, beta=False)
        objective(batch(objective, inputs(seed)))
        means.append(objective.weighting.memory_mean.clone())
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[1], means[2])


def test_frozen_normalisation_divides_by_them_alone() -> None:
    weighting = Weighting("normalised", ("ce", "anchor"), (1.0, 1.0), {})
    weighting(torch.tensor([2.0, 4.0]))
    weighting.frozen = True
    once, twice = (weighting(factor * torch.tensor([2.0, 6.0])) for factor in (1, 2))
    torch.testing.assert_close(once, torch.tensor((2 / 2 + 6 / 4) / 2))
    torch.testing.assert_close(twice, 2 * once)
    fresh = Weighting("normalised", ("ce", "anchor"), (1.0, 1.0), {})
    fresh.frozen = True
    torch.testing.assert_close(fresh(torch.tensor([2.0, 6.0])), torch.tensor(1.0))  # nothing was seen before


def test_collapse_is_counted_in_steps_and_survives_a_resume() -> None:
    objective = make(alpha_init=(-9.0, 1.0, 1.0, 1.0, 1.0))
    assert objective.collapse_step() is None
    objective(batch(objective))
    assert objective.collapse_step() == 1
    healthy = make()
    healthy(batch(healthy))
    resumed = make()
    resumed.load_state_dict(healthy.state_dict())
    with torch.no_grad():
        resumed.weighting.alpha[0] = -9
    resumed(batch(resumed))
    assert healthy.collapse_step() is None
    assert resumed.collapse_step() == 2


def test_embeddings_are_no_state() -> None:
    assert set(make().state_dict()) == {
        "anchor/beta",
        "weighting.alpha",
        "weighting.step",
        "weighting.collapsed_at",
    }


def test_what_a_subset_lacks_is_said_with_the_term_s_name() -> None:
    for labels, message in (
        ((), "term 'anchor' needs label embeddings"),
        ((FINE,), "needs label embeddings of level 1"),
    ):
        objective = Objective(TrialConfig(subset="ce+anchor"), TREE, labels)
        with pytest.raises(ConfigError, match=message):
            objective(batch(objective))


def test_an_objective_refuses_a_flat_data_set_by_the_term_s_name() -> None:
    flat = Taxonomy.from_names([f"c{i}" for i in range(C)])
    for subset, named in (("ce+anchor", "anchor needs"), ("hace", "hace needs"), ("hxe", "hxe needs")):
        with pytest.raises(ConfigError, match=f"{named} a tree over the classes, and the data set is flat"):
            Objective(TrialConfig(subset=subset), flat, [FINE])
    with pytest.raises(ConfigError, match="soft_label and anchor need a tree"):
        Objective(TrialConfig(subset="soft_label+anchor"), flat, [FINE])
    objective = Objective(TrialConfig(subset="ce+triplet+reg"), flat, [FINE])
    assert objective(batch(objective)).total.isfinite()


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

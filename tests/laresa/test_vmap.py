"""K stacked heads are torch.func.vmap over one model's Batch: equal to a loop over the heads, in value and gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from laresa.config import TrialConfig
from laresa.objective import Objective
from laresa.weighting import Weighting
from tests.laresa.checks import RAGGED, D, draw, labels

K, N = 3, 8
C, V = RAGGED.leaves, len(RAGGED.parents)
LEVELS = tuple(draw(seed, C, D).float() for seed in (1, 2, 3))
Y, DRAWN = labels(4, C, N), torch.rand(K, N, generator=torch.Generator().manual_seed(5))
MIXED = torch.softmax(2 * draw(6, N, C).float(), 1)
REST = "anchor+triplet+center+variance"
BASES = ("ce", "hace", "hxe", "soft_label", "label_smoothing", "hierarchical_softmax")
NODES = ("hace", "hierarchical_softmax")  # one logit a node
OWN = {  # a number of each head's own, for every field that is one
    "anchor/beta": draw(7, K, 2).float(),
    "triplet/margin": torch.tensor([0.1, 0.4, 0.9]),
    "hace/dilution": torch.tensor([0.3, 0.7, 1.0]),
    "hace/smoothing": torch.tensor([0.0, 0.1, 0.2]),
    "hxe/alpha": torch.tensor([0.0, 0.2, 0.8]),
    "hace/soft_beta": torch.tensor([0.0, 2.0, 20.0]),
    "soft_label/beta": torch.tensor([1.0, 5.0, 20.0]),
    "label_smoothing/epsilon": torch.tensor([0.0, 0.1, 0.3]),
    "devise/gap": torch.tensor([0.1, 0.3, 0.8]),
}


def make(subset: str, **fields: Any) -> Objective:
    return Objective(TrialConfig(subset=subset, **fields), RAGGED, LEVELS)


def losses_of(objective: Objective, target_NC: Tensor | None, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One head's losses, by term."""
    tensors = {name: value for name, value in x.items() if "/" in name}
    batch = objective.batch(x["logits"], x["z"], Y, target_NC=target_NC, uniform=lambda shape: x["drawn"])
    losses, _ = objective.compute(batch, tensors)
    return torch.stack(losses)


CASES = [
    *((f"{base}+{REST}", {}, None) for base in BASES),
    *((f"{base}+anchor+triplet", {}, MIXED) for base in BASES),
    *(("ce+cpcc+tree_anchor+devise", {}, target) for target in (None, MIXED)),
    *(("hace+anchor", {"anchor.beta": "tree"}, target) for target in (None, MIXED)),
    ("ce+triplet", {"negatives": "nearest"}, None),
    ("ce+triplet", {"negatives": "semi_hard"}, None),
    ("ce+reg", {"center.reduction": "mean", "variance.reduction": "mean", "center.input": "scaled"}, None),
    ("ce+reg", {"variance.reduction": "sample", "center.input": "unit", "variance.input": "unit"}, None),
]


@pytest.mark.parametrize(
    ("subset", "fields", "target_NC"), CASES, ids=[f"{c[0]}-{c[1]}-{c[2] is not None}" for c in CASES]
)
def test_a_stack_of_heads_is_a_loop_over_heads(subset: str, fields: dict[str, Any], target_NC: Tensor | None) -> None:
    objective = make(subset, **fields)
    parts = objective.parts
    stacked = {
        "logits": draw(8, K, N, V if parts[0] in NODES else C).float(),
        "z": draw(9, K, N, D).float(),
        "drawn": DRAWN,
    }
    stacked["z"][0, 0] = 0  # a zero latent
    stacked |= {name: value for name, value in OWN.items() if name.split("/")[0] in parts}
    if fields.get("anchor.beta") == "tree":
        stacked["anchor/beta"] = draw(7, K, RAGGED.telling).float()
    factor_KT = draw(10, K, len(parts)).float()

    def total(x: Mapping[str, Tensor], factor_T: Tensor) -> tuple[Tensor, Tensor]:
        losses_T = losses_of(objective, target_NC, x)
        return (factor_T * losses_T).sum(), losses_T

    found, (_, found_KT) = torch.func.vmap(torch.func.grad_and_value(total, has_aux=True))(stacked, factor_KT)
    for k in range(K):
        one = {name: value[k].clone().requires_grad_(name != "drawn") for name, value in stacked.items()}
        value, losses_T = total(one, factor_KT[k])
        value.backward()
        torch.testing.assert_close(found_KT[k], losses_T.detach())
        for name, leaf in one.items():
            if name != "drawn":
                expected = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                torch.testing.assert_close(found[name][k], expected, msg=lambda text, name=name: f"{name}: {text}")


def test_a_head_s_own_numbers_are_those_of_its_configuration() -> None:
    """What takes a field's place under vmap means what the field means."""
    for name, values in OWN.items():
        term, field = name.split("/")
        subset = term if term in BASES else f"ce+{term}"
        logits = draw(8, N, V if term in NODES else C).float()
        objective, x = make(subset), {"logits": logits, "z": draw(9, N, D).float(), "drawn": DRAWN[0]}
        before = losses_of(objective, None, {**x, **objective.tensors()})
        for value in values:
            own = make(subset, **{f"{term}.{field}": value.tolist()})
            expected = losses_of(own, None, {**x, **own.tensors()})
            found = losses_of(objective, None, {**x, **objective.tensors(), name: value})
            torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}")
        assert not torch.equal(expected, before)


@pytest.mark.parametrize("rule", ["softmax", "uncertainty", "kl", "floor", "normalised"])
def test_weightings_are_stacked_too(rule: str) -> None:
    module = make(f"ce+{REST}", weighting=rule).weighting
    assert isinstance(module, Weighting)
    alpha_KT, losses_KT = draw(11, K, 5).float(), draw(12, K, 5).float().abs()

    def total(losses_T: Tensor, alpha_T: Tensor) -> Tensor:
        return module.weigh(losses_T, {**module.state(), "alpha": alpha_T})[0]

    found_K = torch.func.vmap(total)(losses_KT, alpha_KT)
    torch.testing.assert_close(found_K, torch.stack([total(losses_KT[k], alpha_KT[k]) for k in range(K)]))

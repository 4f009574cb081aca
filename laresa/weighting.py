"""How the terms of an objective are balanced: rules as data (`WEIGHTINGS`), and the state they learn.

A rule turns T losses into (total, share_T, memory): the scalar to minimise, what part of the weight each term has, and
what it remembers. Its keyword-only parameters are its fields. Shares sum to 1 under every rule, so that weights,
entropies and collapse compare across rules:
  softmax, kl, floor   the weights themselves
  fixed                the given scalars over their sum
  uncertainty          exp(-s_i) / 2 over their sum
  base_outside         (1, scale softmax(alpha)) / (1 + scale): the share of the base term is 1 / (1 + scale) for ever
  normalised           the softmax, which weighs losses that are near 1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from laresa.fields import Doc, PerTerm, Range
from laresa.plugins import component

COLLAPSE_SHARE = 0.05  # a base term's share under it counts as collapsed
MEAN_STEP = 0.01  # of the running means under "normalised": they remember about 100 steps
State = Mapping[str, Tensor]
Weighted = tuple[Tensor, Tensor, State]


@dataclass(frozen=True)
class Rule:
    """A weighting rule and what its function alone does not say.

    logits: which terms have a learned alpha: "all", "others" (the base term has none), or "none".
    memory: of the number of terms -> the tensors it starts with. Beside them a rule finds memory["frozen"], a bool.
    """

    fn: Callable[..., Weighted]
    logits: str = "all"
    memory: Callable[[int], dict[str, Tensor]] | None = None


def _equal(terms: int) -> float:
    return 1 / terms


def softmax(losses_T: Tensor, alpha_T: Tensor, memory: State) -> Weighted:
    """sum w_i L_i, w = softmax(alpha). LARESA Eq. 4 and 5."""
    w_T = alpha_T.softmax(0)
    return (w_T * losses_T).sum(), w_T, memory


def fixed(
    losses_T: Tensor,
    alpha_T: Tensor,
    memory: State,
    *,
    weights: Annotated[Tensor, PerTerm(_equal, some=True), Ge(0), Doc("each term's scalar, as it is")] = None,  # type: ignore[assignment]
) -> Weighted:
    """sum w_i L_i with given scalars, taken as they are."""
    return (weights * losses_T).sum(), weights / weights.sum(), memory


def uncertainty(losses_T: Tensor, alpha_T: Tensor, memory: State) -> Weighted:
    """sum L_i exp(-s_i) / 2 + s_i / 2, s = log variance. Kendall et al., CVPR 2018, arxiv.org/abs/1705.07115."""
    return (losses_T * torch.exp(-alpha_T) + alpha_T).sum() / 2, (-alpha_T).softmax(0), memory


def kl(
    losses_T: Tensor,
    alpha_T: Tensor,
    memory: State,
    *,
    prior: Annotated[Tensor, PerTerm(_equal), Gt(0), Doc("the weights to stay near")] = None,  # type: ignore[assignment]
    tau: Annotated[float, Ge(0), Range(0.01, 10, log=True), Doc("price of leaving the prior")] = 1.0,
) -> Weighted:
    """sum w_i L_i + tau KL(w || prior), w = softmax(alpha): a price on leaving the prior."""
    log_w_T = alpha_T.log_softmax(0)
    w_T = log_w_T.exp()
    return (w_T * (losses_T + tau * (log_w_T - torch.log(prior / prior.sum())))).sum(), w_T, memory


def floor(
    losses_T: Tensor,
    alpha_T: Tensor,
    memory: State,
    *,
    eps: Annotated[float, Gt(0), Le(1), Range(0.1, 0.9), Doc("share of the weight that is spread evenly")] = 0.5,
) -> Weighted:
    """sum w_i L_i, w = (1 - eps) softmax(alpha) + eps / T: no weight falls under eps / T."""
    w_T = (1 - eps) * alpha_T.softmax(0) + eps / len(losses_T)
    return (w_T * losses_T).sum(), w_T, memory


def base_outside(
    losses_T: Tensor,
    alpha_T: Tensor,
    memory: State,
    *,
    scale: Annotated[float, Ge(0), Range(0.1, 10, log=True), Doc("weight of all other terms together")] = 1.0,
) -> Weighted:
    """L_base + scale sum softmax(alpha)_i L_i over the others; the base term is the first loss and has no logit."""
    w_T = torch.cat((alpha_T.new_ones(1), scale * alpha_T.softmax(0)))
    return (w_T * losses_T).sum(), w_T / (1 + scale), memory


def normalised(losses_T: Tensor, alpha_T: Tensor, memory: State) -> Weighted:
    """`softmax` over each loss divided by its running mean (exponential, unbiased, the present loss included).

    Frozen, the mean is what it was before; frozen from the first step on, there is none but the present loss.
    """
    step = torch.where(memory["frozen"] & (memory["mass"] > 0), 0.0, MEAN_STEP).to(memory["mean"].dtype)
    mean_T = memory["mean"].lerp(losses_T.detach().to(memory["mean"].dtype), step)
    mass = memory["mass"].lerp(torch.ones_like(memory["mass"]), step)
    total, share_T, _ = softmax(losses_T * (mass / mean_T.clamp_min(torch.finfo(mean_T.dtype).tiny)), alpha_T, {})
    return total, share_T, {"mean": mean_T, "mass": mass}


WEIGHTINGS: dict[str, Any] = {
    "softmax": softmax,
    "fixed": Rule(fixed, logits="none"),
    "uncertainty": uncertainty,
    "kl": kl,
    "floor": floor,
    "base_outside": Rule(base_outside, logits="others"),
    "normalised": Rule(normalised, memory=lambda terms: {"mean": torch.zeros(terms), "mass": torch.zeros(())}),
}


def rule(name: str) -> Rule:
    """The rule of that name. ConfigError: there is none."""
    found = component("WEIGHTINGS", name)
    return found if isinstance(found, Rule) else Rule(found)


class Weighting(nn.Module):
    """A rule with what it learns and remembers. All of it is in the state_dict, so that a resume is exact.

    alpha: logits (or log variances s), a parameter; the rule "fixed" owns none.
    step, collapsed_at: training steps seen, and the first (from 1) whose base share was under COLLAPSE_SHARE, or -1.
        Both stay on the device: no step waits for the host.
    frozen: weights (and what the rule remembers) keep their value.
    """

    step: Tensor
    collapsed_at: Tensor

    def __init__(
        self, name: str, terms: tuple[str, ...], alpha_init: tuple[float, ...], fields: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.names, self.rule, self.frozen = terms, rule(name), False
        self.alpha = nn.Parameter(torch.tensor(alpha_init)) if alpha_init else None
        vectors = {field: torch.tensor(value) for field, value in fields.items() if isinstance(value, tuple)}
        for field, vector_T in vectors.items():
            self.register_buffer(f"given_{field}", vector_T, persistent=False)
        self._vectors, self._scalars = tuple(vectors), {f: v for f, v in fields.items() if f not in vectors}
        start = self.rule.memory(len(terms)) if self.rule.memory else {}
        self._memory = tuple(start)
        for field, tensor in start.items():
            self.register_buffer(f"memory_{field}", tensor)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("collapsed_at", torch.full((), -1, dtype=torch.int64))

    def forward(self, losses_T: Tensor) -> Tensor:
        """The weighted total of T losses, in the order of `names`; the base term first. In training it is a step."""
        total, share_T, memory = self._weigh(losses_T)
        if self.training:
            self._watch(share_T.detach()[0])
            if not self.frozen:
                for field in self._memory:
                    setattr(self, f"memory_{field}", memory[field].detach())
        return total

    @torch.no_grad()
    def shares(self) -> Tensor:
        """share_T as it stands."""
        share_T: Tensor = self._weigh(torch.ones(len(self.names), device=self.step.device))[1]
        return share_T

    def _weigh(self, losses_T: Tensor) -> Weighted:
        vectors = {field: getattr(self, f"given_{field}") for field in self._vectors}
        memory = {field: getattr(self, f"memory_{field}") for field in self._memory}
        if memory:
            memory["frozen"] = self.step.new_full((), self.frozen, dtype=torch.bool)
        return self.rule.fn(losses_T, self.alpha, memory, **self._scalars, **vectors)

    def _watch(self, base_share: Tensor) -> None:
        self.step += 1
        first = (base_share < COLLAPSE_SHARE) & (self.collapsed_at < 0)
        self.collapsed_at = torch.where(first, self.step, self.collapsed_at)

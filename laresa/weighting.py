"""How the terms of an objective are balanced: seven rules, and the state they learn.

A rule turns T losses into (total, share_T): the scalar to minimise, and what part of the weight each term has. Shares
sum to 1 under every rule, so that weights, entropies and collapse compare across rules:
  softmax, kl, floor   the weights themselves
  fixed                the given scalars over their sum
  uncertainty          exp(-s_i) / 2 over their sum
  ce_outside           (1, lambda softmax(alpha)) / (1 + lambda): the share of ce is 1 / (1 + lambda) for ever
  normalised           the softmax, which weighs losses that are near 1
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from laresa.config import TrialConfig

COLLAPSE_SHARE = 0.05  # a ce share under it counts as collapsed
MEAN_STEP = 0.01  # of the running means under "normalised": they remember about 100 steps
Weighted = tuple[Tensor, Tensor]


def softmax(losses_T: Tensor, alpha_T: Tensor) -> Weighted:
    """sum w_i L_i, w = softmax(alpha). LARESA Eq. 4 and 5."""
    w_T = alpha_T.softmax(0)
    return (w_T * losses_T).sum(), w_T


def fixed(losses_T: Tensor, weights_T: Tensor) -> Weighted:
    """sum w_i L_i with given scalars, taken as they are."""
    return (weights_T * losses_T).sum(), weights_T / weights_T.sum()


def uncertainty(losses_T: Tensor, s_T: Tensor) -> Weighted:
    """sum L_i exp(-s_i) / 2 + s_i / 2. Kendall et al., CVPR 2018; s = log variance."""
    return (losses_T * torch.exp(-s_T) + s_T).sum() / 2, (-s_T).softmax(0)


def kl(losses_T: Tensor, alpha_T: Tensor, prior_T: Tensor, tau: float) -> Weighted:
    """sum w_i L_i + tau KL(w || prior), w = softmax(alpha): a price on leaving the prior."""
    log_w_T = alpha_T.log_softmax(0)
    w_T = log_w_T.exp()
    return (w_T * (losses_T + tau * (log_w_T - torch.log(prior_T / prior_T.sum())))).sum(), w_T


def floor(losses_T: Tensor, alpha_T: Tensor, eps: float) -> Weighted:
    """sum w_i L_i, w = (1 - eps) softmax(alpha) + eps / T: no weight falls under eps / T."""
    w_T = (1 - eps) * alpha_T.softmax(0) + eps / len(losses_T)
    return (w_T * losses_T).sum(), w_T


def ce_outside(losses_T: Tensor, alpha_T: Tensor, scale: float) -> Weighted:
    """L_ce + scale sum softmax(alpha)_i L_i over the others; ce is the first loss and has no logit."""
    w_T = torch.cat((alpha_T.new_ones(1), scale * alpha_T.softmax(0)))
    return (w_T * losses_T).sum(), w_T / (1 + scale)


RULES: dict[str, Callable[[Tensor, Weighting], Weighted]] = {
    "softmax": lambda losses_T, state: softmax(losses_T, state.alpha),
    "fixed": lambda losses_T, state: fixed(losses_T, state.given),
    "uncertainty": lambda losses_T, state: uncertainty(losses_T, state.alpha),
    "kl": lambda losses_T, state: kl(losses_T, state.alpha, state.given, state.strength),
    "floor": lambda losses_T, state: floor(losses_T, state.alpha, state.strength),
    "ce_outside": lambda losses_T, state: ce_outside(losses_T, state.alpha, state.strength),
    "normalised": lambda losses_T, state: softmax(state.normalised(losses_T), state.alpha),
}


class Weighting(nn.Module):
    """A rule with what it learns and remembers. All of it is in the state_dict, so that a resume is exact.

    alpha: logits (or log variances s), a parameter; the rule "fixed" owns none.
    step, collapsed_at: training steps seen, and the first (from 1) whose ce share was under COLLAPSE_SHARE, or -1.
        Both stay on the device: no step waits for the host.
    frozen: weights (and running means) keep their value.
    """

    alpha: Tensor
    given: Tensor
    mean: Tensor
    mean_mass: Tensor
    strength: float
    step: Tensor
    collapsed_at: Tensor

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self.names = config.terms
        self.rule = str(config.weighting)
        self.strength = float(config.kl_tau or config.floor_eps or config.aux_scale or 0.0)
        self.frozen = False
        if config.alpha_init is not None:
            self.alpha = nn.Parameter(torch.tensor(config.alpha_init))
        if config.fixed_weights is not None:
            self.register_buffer("given", torch.tensor(config.fixed_weights), persistent=False)
        if self.rule == "normalised":
            self.register_buffer("mean", torch.zeros(len(self.names)))
            self.register_buffer("mean_mass", torch.zeros(()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("collapsed_at", torch.full((), -1, dtype=torch.int64))

    def forward(self, losses_T: Tensor) -> Tensor:
        """The weighted total of T losses, in the order of `names`; ce first. In training mode it counts as a step."""
        total, share_T = RULES[self.rule](losses_T, self)
        if self.training:
            self._watch(share_T.detach()[0])
        return total

    def normalised(self, losses_T: Tensor) -> Tensor:
        """Each loss over its running mean (exponential, unbiased from the first step on, the present loss included)."""
        if self.training and not self.frozen:
            self.mean.lerp_(losses_T.detach().to(self.mean.dtype), MEAN_STEP)
            self.mean_mass.lerp_(torch.ones_like(self.mean_mass), MEAN_STEP)
        tiny = torch.finfo(self.mean.dtype).tiny
        return losses_T * (self.mean_mass / self.mean.clamp_min(tiny))

    @torch.no_grad()
    def shares(self) -> Tensor:
        """share_T as it stands."""
        training = self.training
        self.eval()
        _, share_T = RULES[self.rule](torch.zeros(len(self.names), device=self.step.device), self)
        self.train(training)
        return share_T

    def _watch(self, ce_share: Tensor) -> None:
        self.step += 1
        first = (ce_share < COLLAPSE_SHARE) & (self.collapsed_at < 0)
        self.collapsed_at = torch.where(first, self.step, self.collapsed_at)

"""What is watched while a trial trains: the latents' geometry, which term's gradient shouts, when to freeze weights.

LARESA advises to monitor latent metrics beside accuracy, and to freeze the weights once they improve no more
(App. I, "Limitations and Practitioner Guidance").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laresa.measurement import Measurement
from laresa.metrics import effective_rank, nn_hit, silhouette

if TYPE_CHECKING:
    from laresa.config import TrialConfig
    from laresa.objective import Objective
    from laresa.taxonomy import Taxonomy

SAMPLES = 2000  # validation latents that are looked at, evenly over the split: silhouettes take their square
SILHOUETTE = "latent/silhouette"


def watched(config: TrialConfig, number: int) -> bool:
    """Whether epoch `number` (from 1) is one that is watched: the first, every `watch_every`-th, the last."""
    return number in (1, config.epochs) or number % config.watch_every == 0


def latent_metrics(z_ND: Tensor, y_N: Tensor, tree: Taxonomy) -> dict[str, float]:
    """Effective rank, silhouette and NN-hit of validation latents; what has no value (a flat tree) is left out."""
    every = -(-len(z_ND) // SAMPLES)
    z, y = z_ND[::every].cpu().numpy(), y_N[::every].cpu().numpy()
    found = {"latent/effective_rank": effective_rank(z)}
    if not tree.flat:
        found |= {SILHOUETTE: silhouette(z, tree.parent_C[y]), "latent/nn_hit": nn_hit(z, y, tree.parent_C)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def gradient_norms(terms: Sequence[Tensor], z: Tensor) -> Tensor:
    """|dL/dz| of each term (... x T), before any weight. The graph is kept; a term that z has no part in gives 0.

    terms: scalars and z N x D; or of K heads, K each and K x N x D.
    """
    found = [torch.autograd.grad(term.sum(), z, retain_graph=True, allow_unused=True)[0] for term in terms]
    gradients = [torch.zeros_like(z) if gradient is None else gradient for gradient in found]
    return torch.stack([gradient.float().flatten(-2).norm(dim=-1) for gradient in gradients], -1)


def gradient_shares(objective: Objective, terms_T: Tensor, norm_T: Tensor) -> dict[str, float]:
    """Each term's share of what pulls at z: its weight times its gradient's norm, over the sum of all terms'.

    {} for one term alone, or where nothing pulls. terms_T: the losses, which some rules weigh by.
    """
    if objective.weighting is None:
        return {}
    pull_T = objective.multipliers(terms_T) * norm_T
    total = float(pull_T.sum())
    if not (math.isfinite(total) and total > 0):
        return {}
    return {f"gradient/{name}": pull / total for name, pull in zip(objective.parts, pull_T.tolist(), strict=True)}


def is_frozen(rule: int | str | None, history: Sequence[Measurement], patience: int) -> bool:
    """Whether what balances the terms is frozen in the epoch after `history`. It stays so: it hangs on the past alone.

    rule: an epoch, from which on; "plateau": once the silhouette of the validation latents (where there is none, the
    validation top-1) is looked at and was best `patience` epochs ago or more; None: never.
    """
    if rule is None or isinstance(rule, int):
        return rule is not None and len(history) + 1 >= rule
    metric = SILHOUETTE if any(SILHOUETTE in m.metrics for m in history) else "val/top1"
    best, best_epoch = -math.inf, 0
    for measurement in history:
        if (value := measurement.metrics.get(metric)) is None:
            continue
        if value > best:
            best, best_epoch = value, measurement.epoch
        elif measurement.epoch - best_epoch >= patience:
            return True
    return False


def freeze(config: TrialConfig, objective: Objective, history: Sequence[Measurement]) -> None:
    """To be called as an epoch begins: what `freeze_alpha` and `freeze_beta` say keeps its value."""
    patience = config.freeze_patience or 1
    alpha, beta = (is_frozen(rule, history, patience) for rule in (config.freeze_alpha, config.freeze_beta))
    objective.freeze(alpha=alpha, beta=beta)

"""Objective: the terms of one loss subset, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, normalize

from laresa import losses
from laresa.config import TrialConfig
from laresa.errors import ConfigError, NonFiniteLossError
from laresa.weighting import Weighting


@dataclass(frozen=True)
class ObjectiveOutput:
    """total: the scalar to call backward() on. terms_T: each loss before its weight, detached; named by `names`."""

    total: Tensor
    terms_T: Tensor  # noqa: N815
    names: tuple[str, ...]  # config.parts

    @property
    def terms(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.terms_T.unbind(), strict=True))


class Objective(nn.Module):
    """The losses of `config.subset` on a batch. A term outside the subset costs nothing and owns no parameter.

    Its parameters are the learned scalars (alpha, beta), a group with a learning rate of their own.

    fine_CD: embedding of each class's text; coarse_CD: of each class's PARENT. Any length but zero. Needed by anchor
        (both) and triplet (fine); they follow the module to its device and are not in its state_dict.
    Raises ConfigError where embeddings or a second class are missing.
    """

    table: Tensor  # R x D: unit embeddings: the C fine ones, then (anchor) the C parents
    beta_logits_2: Tensor

    def __init__(self, config: TrialConfig, fine_CD: Tensor | None = None, coarse_CD: Tensor | None = None) -> None:
        super().__init__()
        self.config, self.parts = config, config.parts
        self.weighting = Weighting(config) if len(self.parts) > 1 else None
        if {"anchor", "triplet"} & set(self.parts):
            table_RD = _table(self.parts, fine_CD, coarse_CD)
            self.register_buffer("table", normalize(table_RD.detach().float(), dim=1), persistent=False)
        if config.beta_init is not None:
            beta_2 = torch.tensor(config.beta_init)
            if config.beta_learned:
                self.beta_logits_2 = nn.Parameter(beta_2)
            else:
                self.register_buffer("beta_logits_2", beta_2, persistent=False)

    def forward(
        self, logits_NC: Tensor, z_ND: Tensor, y_N: Tensor, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """The weighted sum, and each term. Losses are computed in float32 (or wider) under autocast too.

        generator: draws the triplet's negative classes; on the CPU or on the device of y_N.
        """
        if self.weighting is None:
            total = cross_entropy(_wide(logits_NC), y_N)
            return ObjectiveOutput(total, total.detach().reshape(1), self.parts)
        terms_T = self._terms(_wide(logits_NC), _wide(z_ND), y_N, generator)
        weighted_T = torch.cat((terms_T[:-2], terms_T[-2:].sum(0, keepdim=True))) if self.config.group_reg else terms_T
        return ObjectiveOutput(self.weighting(weighted_T), terms_T.detach(), self.parts)

    def _terms(self, logits_NC: Tensor, z_ND: Tensor, y_N: Tensor, generator: torch.Generator | None) -> Tensor:
        values = {"ce": cross_entropy(logits_NC, y_N)}
        if "anchor" in self.parts or "triplet" in self.parts:
            values |= self._semantic_terms(z_ND, y_N, logits_NC.shape[1], generator)
        if "center" in self.parts or "variance" in self.parts:
            mean_D, sigma_D = losses.moments(z_ND)
        if "center" in self.parts:
            values["center"] = losses.center_from_mean(mean_D)
        if "variance" in self.parts:
            reduction = str(self.config.variance_reduction)
            values["variance"] = losses.variance_from_sigma(sigma_D, reduction=reduction)
        return torch.stack([values[part] for part in self.parts])

    def _semantic_terms(
        self, z_ND: Tensor, y_N: Tensor, n_classes: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """anchor and triplet from one gather and one product: rows are (own class, [its parent], [negative])."""
        rows = [y_N]
        if "anchor" in self.parts:
            rows.append(y_N + n_classes)
        if "triplet" in self.parts:
            rows.append(negatives(y_N, n_classes, generator))
        cosine_NK = losses.cosines(z_ND, embedding(torch.stack(rows, 1), self.table.to(z_ND.dtype)))
        values = {}
        if "anchor" in self.parts:
            values["anchor"] = losses.anchor_from_cosines(cosine_NK[:, :2].mean(0), self.beta_logits_2.softmax(0))
        if "triplet" in self.parts:
            margin = float(self.config.margin or 0)
            values["triplet"] = losses.triplet_from_cosines(cosine_NK[:, 0], cosine_NK[:, -1], margin=margin).mean()
        return values

    def set_epoch(self, epoch: int) -> None:
        """To be called as an epoch (from 1) begins: from `config.freeze_epoch` on, alpha and beta keep their value."""
        frozen = self.config.freeze_epoch is not None and epoch >= self.config.freeze_epoch
        if self.weighting is not None:
            self.weighting.frozen = frozen
        for parameter in self.parameters():
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None  # else an optimiser's momentum would carry it on

    # ------------------------------------------------------------------ to log once an epoch (waits for the device)
    def weights(self) -> dict[str, float]:
        """Share of each of `config.terms`; they sum to 1 (laresa.weighting says what that means under each rule)."""
        if self.weighting is None:
            return {"ce": 1.0}
        return dict(zip(self.config.terms, self.weighting.shares().tolist(), strict=True))

    def entropy(self) -> float:
        """Of the weights, in nats: log(number of terms) where all are equal, 0 where one has all."""
        return -sum(w * math.log(w) for w in self.weights().values() if w > 0)

    def beta(self) -> tuple[float, float] | None:
        """The anchor's weights (fine, coarse); None without an anchor."""
        if "anchor" not in self.parts:
            return None
        fine, coarse = self.beta_logits_2.detach().softmax(0).tolist()
        return fine, coarse

    def collapse_step(self) -> int | None:
        """The first training step (from 1) at which the share of ce was under 0.05; None if there was none."""
        step = -1 if self.weighting is None else int(self.weighting.collapsed_at)
        return None if step < 0 else step


def negatives(y_N: Tensor, n_classes: int, generator: torch.Generator | None = None) -> Tensor:
    """For each sample a class drawn uniformly from the others. LARESA sec. 2.3."""
    device = y_N.device if generator is None else generator.device
    shift_N = torch.randint(1, n_classes, y_N.shape, generator=generator, device=device)
    return (y_N + shift_N.to(y_N.device, non_blocking=True)) % n_classes


def check_finite(losses_ST: Tensor, names: Sequence[str], epoch: int) -> None:
    """Raise NonFiniteLossError, naming the first step without a finite loss and the terms to blame.

    losses_ST: what each of the epoch's S steps lost, by `names` (T): "total", then the terms.
    """
    broken_S = (~torch.isfinite(losses_ST)).any(1)
    if not broken_S.any():
        return
    step = int(broken_S.nonzero()[0])
    values = dict(zip(names, losses_ST[step].tolist(), strict=True))
    guilty = [name for name in names if not math.isfinite(values[name]) and name != "total"]
    what = ", ".join(f"{name} = {values[name]}" for name in guilty) or "the weights, every term being finite"
    raise NonFiniteLossError(
        f"the loss is {values['total']} at step {step + 1} of epoch {epoch}: {what}. Lower lr or alpha_lr, or use fp32."
    )


def _wide(x: Tensor) -> Tensor:
    """At least float32. Enough under autocast too: no operation of the losses is one that autocast narrows."""
    return x if x.dtype == torch.float64 else x.float()


def _table(parts: tuple[str, ...], fine_CD: Tensor | None, coarse_CD: Tensor | None) -> Tensor:
    if fine_CD is None or ("anchor" in parts and coarse_CD is None):
        raise ConfigError(f"subset {'+'.join(parts)} needs label embeddings: fine, and for anchor coarse")
    if "triplet" in parts and len(fine_CD) < 2:
        raise ConfigError("triplet needs a second class to draw negatives from")
    if "anchor" not in parts:
        return fine_CD
    assert coarse_CD is not None
    if coarse_CD.shape != fine_CD.shape:
        raise ConfigError(
            f"coarse embeddings {tuple(coarse_CD.shape)}: expected one a FINE class, {tuple(fine_CD.shape)}"
        )
    return torch.cat((fine_CD, coarse_CD))

"""What every method of ours builds of a configuration: the base term's head, the optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from laresa.config import TrialConfig
from laresa.errors import LatentWidthError
from laresa.objective import Objective, check_finite
from laresa.plugins import component
from laresa.terms import Head, head_of


def base_head(config: TrialConfig) -> Head:
    """What the subset's base term asks of the classifier."""
    return head_of(config.parts[0], config.values(config.parts[0]))


def check_width(objective: Objective, width: int, outputs: int) -> None:
    """LatentWidthError: a term holds latents of this width against texts of another. Before anything is trained."""
    device = next(objective.buffers(), torch.zeros(0)).device
    z_ND, y_N = torch.zeros(1, width, device=device), torch.zeros(1, dtype=torch.long, device=device)
    logits = torch.zeros(1, outputs, device=device)
    batch = objective.batch(logits, z_ND, y_N, view_ND=z_ND, uniform=lambda shape: torch.zeros(*shape, device=device))
    try:
        with torch.no_grad():
            objective.compute(batch, objective.tensors())
    except LatentWidthError:
        raise
    except Exception:  # of one sample of zeros nothing else is asked
        return


def build_optimizer(config: TrialConfig, model: nn.Module, objective: Objective) -> torch.optim.Optimizer:
    """Over the model's parameters, and with a rate of its own over what balances the terms; `base_lr` as it begins."""
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": config.lr}]
    groups[0]["weight_decay"] = config.weight_decay
    if balance := [p for p in objective.parameters() if p.requires_grad]:
        groups.append({"params": balance, "lr": config.alpha_lr or config.lr, "weight_decay": 0.0})
    optimizer: torch.optim.Optimizer = component("OPTIMIZERS", config.optimizer)(
        groups, **config.values(config.optimizer)
    )
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def set_rates(config: TrialConfig, optimizer: torch.optim.Optimizer, number: int) -> None:
    """The learning rates of epoch `number` (from 1), as the schedule has them."""
    schedule = component("LR_SCHEDULES", config.schedule)
    factor = schedule((number - 1) / config.epochs, **config.values(config.schedule))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def epoch_metrics(objective: Objective, losses_ST: Tensor, number: int) -> dict[str, float]:
    """An epoch's metrics: means over its S steps of (total, each part), and what balances the terms.

    losses_ST: on the CPU, the one transfer from the device in an epoch. NonFiniteLossError names the step and term.
    """
    names = ("total", *objective.parts)
    check_finite(losses_ST, names, number)
    means = dict(zip(names, losses_ST.mean(0).tolist(), strict=True))
    metrics = {"train/loss": means.pop("total")} | {f"train/loss_{part}": value for part, value in means.items()}
    metrics |= {f"weight/{name}": value for name, value in objective.weights().items()}
    if len(objective.names) > 1:
        metrics["weight/entropy"] = objective.entropy()
    return metrics | objective.learned()

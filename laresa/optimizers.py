"""Optimisers and learning-rate schedules, as data.

An optimiser is a function of parameter groups (each with its lr and weight_decay); a schedule of the share of training
that is done (0 at the first epoch), which gives the factor of the learning rate. Keyword-only parameters are fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, Lt

from laresa.fields import Doc, Range

Groups = Sequence[dict[str, Any]]
WARMUP_START = 0.01  # of lr


def adam(groups: Groups) -> torch.optim.Optimizer:
    """Adam. Kingma & Ba, ICLR 2015, https://arxiv.org/abs/1412.6980."""
    return torch.optim.Adam(list(groups), fused=True)


def adamw(groups: Groups) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay. Loshchilov & Hutter, ICLR 2019, https://arxiv.org/abs/1711.05101."""
    return torch.optim.AdamW(list(groups), fused=True)


def sgd(
    groups: Groups,
    *,
    momentum: Annotated[float, Ge(0), Lt(1), Range(0.0, 0.99), Doc("of the running gradient")] = 0.9,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(list(groups), momentum=momentum, fused=True)


def none(done: float) -> float:
    """Constant."""
    return 1.0


def cosine(done: float) -> float:
    """Half a cosine from 1 to 0. Loshchilov & Hutter, ICLR 2017, https://arxiv.org/abs/1608.03983."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


def warmup_cosine(
    done: float,
    *,
    warmup: Annotated[float, Ge(0), Lt(1), Range(0.0, 0.2), Doc("share of the epochs in which lr rises")] = 0.05,
    floor: Annotated[float, Ge(0), Le(1), Range(0.0, 0.2), Doc("where lr ends, as a share of lr")] = 0.0,
) -> float:
    """A straight line from 1/100 to 1, then half a cosine from 1 to `floor`. Goyal et al., 2017, section 2.2,
    https://arxiv.org/abs/1706.02677.

    Both are shares, so that a recipe holds for any number of epochs and `floor` below every lr that a search asks for.
    It begins above 0 because lr is set once an epoch: the first one would learn nothing.
    """
    if done < warmup:
        return WARMUP_START + (1.0 - WARMUP_START) * done / warmup
    return floor + (1.0 - floor) * cosine((done - warmup) / (1.0 - warmup))


OPTIMIZERS = {"adam": adam, "adamw": adamw, "sgd": sgd}
LR_SCHEDULES = {"none": none, "cosine": cosine, "warmup_cosine": warmup_cosine}

"""Which text each class is trained with: its own, or by a control another's. All draws are by the trial's seed.

C classes, K groups (immediate parents of classes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from laresa.controls import Control
from laresa.errors import DataError
from laresa.seeds import generator

if TYPE_CHECKING:
    from laresa.tree import Tree


def sources(tree: Tree, control: Control) -> tuple[Tensor, Tensor]:
    """int64 [C] twice: the class whose own text a class is given, and the class whose ancestors' texts.

    Of shuffled and noisy classes texts of all levels move together, so that all that is lost is whose they are; coarse
    noise moves the ancestors' alone. DataError: a share that comes to one class, which has none to exchange with; no
    second group.
    """
    own_C = torch.arange(tree.leaves)
    if control.shuffled:
        own_C = derangement(tree.leaves, control.seed)
    elif control.noise:
        own_C = _noisy(tree.leaves, control)
    return own_C, _coarsely_noisy(tree, control, own_C) if control.coarse_noise else own_C


def derangement(count: int, seed: int) -> Tensor:
    """int64 [count], a uniformly drawn permutation without a fixed point. DataError below two things."""
    if count < 2:
        raise DataError(f"shuffled labels need two classes at least, not {count}")
    drawn = torch.Generator().manual_seed(seed)
    while True:  # one draw in e has no fixed point
        order = torch.randperm(count, generator=drawn)
        if not (order == torch.arange(count)).any():
            return order


def corrupted(count: int, share: float, seed: int, stream: str) -> Tensor:
    """int64 [round(share * count)], which of `count` classes; those of a smaller share are among them."""
    order = torch.randperm(count, generator=generator("cpu", seed, 0, stream))
    return order[: round(share * count)]


def random_rows(count: int, width: int, seed: int) -> Tensor:
    """float32 [count, width], rows of length 1, in directions that are drawn uniformly (a Gaussian's)."""
    drawn = torch.randn(count, width, generator=generator("cpu", seed, 0, "random labels"), dtype=torch.float64)
    return normalize(drawn, dim=1).float()


def _noisy(classes: int, control: Control) -> Tensor:
    chosen = corrupted(classes, control.noise, control.seed, "label noise")
    if len(chosen) < 2:
        raise DataError(
            f"label_noise={control.noise:g} of {classes} classes is {len(chosen)}: expected a share of two at least, "
            "which exchange their texts"
        )
    own_C = torch.arange(classes)
    own_C[chosen] = chosen[derangement(len(chosen), control.seed)]
    return own_C


def _coarsely_noisy(tree: Tree, control: Control, own_C: Tensor) -> Tensor:
    """A class of a wrong group in place of the class itself, drawn for all classes at once: so shares are nested."""
    groups = len(tree.coarse_nodes)
    if tree.flat or groups < 2:
        raise DataError(f"coarse_noise={control.coarse_noise:g}: expected a tree with two groups of classes at least")
    chosen = corrupted(tree.leaves, control.coarse_noise, control.seed, "coarse noise")
    if not len(chosen):
        raise DataError(
            f"coarse_noise={control.coarse_noise:g} of {tree.leaves} classes is none: expected a greater one"
        )
    parent_C = torch.from_numpy(tree.parent_C)
    drawn = generator("cpu", control.seed, 0, "coarse groups")
    wrong_C = (parent_C + torch.randint(1, groups, (tree.leaves,), generator=drawn)) % groups
    member_K = torch.stack([(parent_C == group).nonzero()[0, 0] for group in range(groups)])
    found_C = own_C.clone()
    found_C[chosen] = member_K[wrong_C[chosen]]
    return found_C

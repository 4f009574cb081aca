"""Stack: K heads of equal shapes and terms as one batched computation.

Parameters and buffers of the heads' modules are views of tensors [K, ...]: products are batched, the objective is
torch.func.vmap over the heads (a loop where a term can't be mapped), and each head's own optimiser steps its views.
Nothing is summed over heads, so that no head's numbers depend on who else is in the stack.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from laresa import checkpoint
from laresa.batch import Batch
from laresa.config import TrialConfig
from laresa.controls import control_of
from laresa.errors import ConfigError
from laresa.methods.heads.head import Head
from laresa.methods.watch import gradient_norms
from laresa.objective import Step
from laresa.weighting import collapsed

log = logging.getLogger(__name__)
CORE = ("subset", "weighting", "group_weights", "encoder", "label_text", "prompt", "latent_dim", "precision")


def stack_key(config: TrialConfig) -> str:
    """Heads of equal keys share a stack: equal terms and shapes, fields that are no numbers, numbers that are zero."""
    named = (*config.parts, config.weighting, config.method)
    fields = {name: value for name, value in config.to_dict().items() if name.split(".")[0] in named and "." in name}
    same = {name: value for name, value in fields.items() if value == 0 or not isinstance(value, (float, list))}
    own_levels = control_of(config) is not None
    return json.dumps([[getattr(config, name) for name in CORE], own_levels, same], sort_keys=True)


class Stack:
    """The heads as they stand, at the beginning of an epoch."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = tuple(heads)
        first = self.heads[0]
        self.objective, self.precision = first.objective, first.config.precision
        self._own = [_named(head, nn.Module.named_parameters) for head in heads]
        self.parameters = _shared(self._own)
        self.buffers = _shared([_named(head, nn.Module.named_buffers) for head in heads])
        numbers = [head.objective.numbers() for head in heads]
        self.numbers = {name: torch.tensor([own[name] for own in numbers], device=first.device) for name in numbers[0]}
        # Label embeddings by level: a table a head where a control changes each its own way, else one for all.
        self._own_levels = control_of(first.config) is not None
        levels = [value for name, value in self.buffers.items() if name.startswith("objective/level_")]
        self.levels = levels if self._own_levels else [value[0] for value in levels]
        self._shapes: dict[int, list[tuple[int, ...]]] = {}  # of the numbers drawn for a batch, by its size
        self._maps = True

    # ------------------------------------------------------------------ a step
    def step(
        self, x_KNF: Tensor, y_KN: Tensor, streams: Sequence[torch.Generator], *, watch: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """One step of every head: its losses (K, 1 + T), the total, then each part; and, to watch, norms (K, T).

        The norms are of each term's gradient at z; None without a latent, or with one term.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in self.parameters.items()}
        with torch.autocast(x_KNF.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits, z_KND = self._forward(leaves, x_KNF)
        found = self._objective(leaves, logits, z_KND, x_KNF, y_KN, streams)
        watch = watch and found.terms_T.shape[1] > 1 and z_KND.requires_grad
        norm_KT = gradient_norms(found.terms_T.unbind(1), z_KND) if watch else None
        found_gradients = torch.autograd.grad(found.total.sum(), list(leaves.values()), allow_unused=True)
        # A fused optimiser reads parameter and gradient element by element as they lie in memory, whatever the strides.
        gradients = [None if gradient is None else gradient.contiguous() for gradient in found_gradients]
        for k, head in enumerate(self.heads):
            for name, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None and (parameter := self._own[k][name]).requires_grad:
                    parameter.grad = gradient[k]
            head.optimizer.step()
        self._remember(found)
        return torch.cat((found.total.detach()[:, None], found.terms_T.detach()), 1), norm_KT

    def _forward(self, weights: Mapping[str, Tensor], x_KNF: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, z) of all heads."""
        z_KND = _linear(weights, "model/latent", x_KNF) if "model/latent.weight" in weights else x_KNF
        if isinstance(self.heads[0].model.classifier, nn.Linear):
            return _linear(weights, "model/classifier", z_KND), z_KND
        layer, own = self.heads[0].model.classifier, checkpoint.under("model/classifier.", weights)
        return torch.func.vmap(lambda w, z: torch.func.functional_call(layer, w, (z,)))(own, z_KND), z_KND

    def _objective(
        self,
        leaves: Mapping[str, Tensor],
        logits: Tensor,
        z_KND: Tensor,
        x_KNF: Tensor,
        y_KN: Tensor,
        streams: Sequence[torch.Generator],
    ) -> Step:
        device, size = x_KNF.device, y_KN.shape[1]
        state = {name: value for name, value in self.buffers.items() if not name.startswith("objective/level_")}
        state = checkpoint.under("objective/", {**state, **leaves}) | self.numbers
        frozen = [head.objective.weighting is not None and head.objective.weighting.frozen for head in self.heads]
        state["weighting.frozen"] = torch.tensor(frozen, device=device)
        epoch_K = torch.tensor([head.number for head in self.heads], device=device)
        given = (logits, z_KND, x_KNF, y_KN, epoch_K, state, self.levels if self._own_levels else [])
        if size not in self._shapes:
            self._shapes[size] = self._asked(*_of(0, given))
        drawn = [
            torch.stack([torch.rand(shape, generator=stream, device=device) for stream in streams])
            for shape in self._shapes[size]
        ]
        return self._mapped((*given, drawn))

    def _mapped(self, given: tuple[Any, ...]) -> Step:
        """`_one` for each head: mapped, or one after another where a term can't be mapped."""
        if self._maps:
            try:
                return Step(*torch.func.vmap(self._one)(*given))
            except (ConfigError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # of many kinds: control flow on values, an operation without a rule
                log.info("%s is not mapped over heads (%s): one after another", self.heads[0].config.subset, error)
                self._maps = False
        found = [self._one(*_of(k, given)) for k in range(len(self.heads))]
        return Step(
            *(
                torch.utils._pytree.tree_map(lambda *own: torch.stack(own), *values)
                for values in zip(*found, strict=True)
            )
        )

    def _one(
        self,
        logits: Tensor,
        z_ND: Tensor,
        x_NF: Tensor,
        y_N: Tensor,
        epoch: Tensor,
        state: Mapping[str, Tensor],
        own_levels: Sequence[Tensor],
        drawn: Sequence[Tensor],
    ) -> Step:
        """A head's objective. drawn: the random numbers that its terms ask for, in turn."""
        turns = iter(drawn)
        return self._step_of(lambda shape: next(turns), logits, z_ND, x_NF, y_N, epoch, state, own_levels)

    def _asked(self, *given: Any) -> list[tuple[int, ...]]:
        """Shapes of the random numbers that the terms ask for."""
        asked: list[tuple[int, ...]] = []

        def uniform(shape: Sequence[int]) -> Tensor:
            asked.append(tuple(shape))
            return torch.zeros(asked[-1], device=given[0].device)

        with torch.no_grad():
            self._step_of(uniform, *given)
        return asked

    def _step_of(
        self,
        uniform: Callable[[Sequence[int]], Tensor],
        logits: Tensor,
        z_ND: Tensor,
        x_NF: Tensor,
        y_N: Tensor,
        epoch: Any,
        state: Mapping[str, Tensor],
        own_levels: Sequence[Tensor],
    ) -> Step:
        labels = own_levels if self._own_levels else self.levels
        batch = Batch(
            logits, z_ND, y_N, tree=self.objective.tree, labels=labels, features_NF=x_NF, epoch=epoch, uniform=uniform
        )
        return self.objective.pure(batch, state)

    def _remember(self, found: Step) -> None:
        for name, value in found.memory.items():
            self.buffers[f"objective/{name}"].copy_(value)
        if self.objective.weighting is not None:
            step_K, first_K = (self.buffers[f"objective/weighting.{name}"] for name in ("step", "collapsed_at"))
            step_K += 1
            first_K.copy_(collapsed(first_K, step_K, found.base_share))


def _named(head: Head, of: Callable[[nn.Module], Iterable[tuple[str, Tensor]]]) -> dict[str, Tensor]:
    return {f"{part}/{name}": value for part, module in head.parts.items() for name, value in of(module)}


def _shared(own: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each name's tensors as one [K, ...], of which they are views from now on."""
    stacked = {name: torch.stack([tensors[name].detach() for tensors in own]) for name in own[0]}
    for k, tensors in enumerate(own):
        for name, tensor in tensors.items():
            tensor.data = stacked[name][k]
    return stacked


def _linear(weights: Mapping[str, Tensor], layer: str, x_KNI: Tensor) -> Tensor:
    """x W^T + b for each head, as (W x^T + b)^T: so the weight's gradient lies in memory as the weight does."""
    weight_KOI, x_KIN = weights[f"{layer}.weight"], x_KNI.transpose(1, 2)
    if f"{layer}.bias" not in weights:
        return torch.bmm(weight_KOI, x_KIN).transpose(1, 2).contiguous()
    return torch.baddbmm(weights[f"{layer}.bias"][:, :, None], weight_KOI, x_KIN).transpose(1, 2).contiguous()


def _of(k: int, given: Any) -> Any:
    """What belongs to head k, of whatever nests tensors [K, ...]."""
    return tree_map(lambda tensor: tensor[k], given)

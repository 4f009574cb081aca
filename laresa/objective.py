"""Objective: the terms of one loss subset, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn.functional import normalize

from laresa.batch import Batch
from laresa.errors import ConfigError, NonFiniteLossError
from laresa.fields import FROM_TREE, Doc, Field
from laresa.terms import loss_fields, term, term_fields
from laresa.weighting import Weighting

if TYPE_CHECKING:
    from laresa.config import TrialConfig
    from laresa.taxonomy import Taxonomy


Frozen = Annotated[int, Gt(0)] | Literal["plateau"] | None


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which terms, and how they are balanced."""

    subset: Annotated[str, Doc("loss terms joined by +, exactly one of them a base term")] = "ce+anchor+triplet+reg"
    weighting: Annotated[str, Doc("rule that balances the terms")] = "softmax"
    group_weights: Annotated[
        bool, Doc("one weight for a group such as reg (LARESA Eq. 3), not one a term (App. A)")
    ] = False
    alpha_lr: Annotated[float | None, Gt(0), Doc("learning rate of what balances the terms; default: lr")] = None
    freeze_alpha: Annotated[
        Frozen, Doc("the terms' weights keep their value from this epoch on, or from the silhouette's plateau on")
    ] = None
    freeze_beta: Annotated[Frozen, Doc("the same of what terms learn, such as the anchor's beta")] = None
    freeze_patience: Annotated[int, Gt(0), Doc("epochs without a better silhouette that make a plateau")] = 10


@dataclass(frozen=True)
class ObjectiveOutput:
    """total: the scalar to call backward() on. terms_T: each loss before its weight; named by `names`."""

    total: Tensor
    terms_T: Tensor
    names: tuple[str, ...]  # config.parts

    @property
    def terms(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.terms_T.detach().unbind(), strict=True))


class Step(NamedTuple):
    """A step of one model. terms_T: each loss before its weight. base_share: the base term's share. memory: new values
    of buffers, by their names."""

    total: Tensor
    terms_T: Tensor
    base_share: Tensor
    memory: dict[str, Tensor]


class Objective(nn.Module):
    """The losses of `config.subset` on a batch. A term outside the subset costs nothing and owns no parameter.

    Its parameters are the learned scalars (alpha, and what terms learn), a group with a learning rate of their own;
    its buffers what terms and the weighting remember. All of it is in the state_dict, so that a resume is exact.

    tree: of the classes; terms that need one refuse a flat one. labels: embeddings of the classes' texts by level
    (C x D each: the own text, the parent's, ...), any length but zero; they follow the module to its device.
    ConfigError: what a term needs is missing.
    """

    def __init__(self, config: TrialConfig, tree: Taxonomy | None = None, labels: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.parts, self.names, self.tree = config.parts, config.terms, tree
        self._terms = {name: term(name) for name in self.parts}
        if tree is not None:
            check_tree(self.parts, tree)
        self.views = max(found.views for found in self._terms.values())
        self.weighting = None
        if len(self.parts) > 1:
            self.weighting = Weighting(config.weighting, self.names, config.alpha_init, _vectors(config))
        self._levels = len(labels)
        self._width = config.latent_dim or (labels[0].shape[1] if labels else None)
        for level, text_CD in enumerate(labels):
            self.register_buffer(f"level_{level}", normalize(text_CD.detach().float(), dim=1), persistent=False)
        self._fields: dict[str, dict[str, Any]] = {}
        self._learned: dict[str, tuple[str, ...]] = {}
        self._memory: dict[str, tuple[str, ...]] = {}
        for name in self.parts:
            self._take(name, loss_fields(name, config.values(name)))

    def _take(self, name: str, values: Mapping[str, Any]) -> None:
        """A term's fields: plain ones as they are, tensors as parameters and buffers."""
        kinds = {field.name.partition(".")[2]: field for field in term_fields(name)}
        self._learned[name] = tuple(f for f, field in kinds.items() if field.kind == "learned")
        self._memory[name] = tuple(f for f, field in kinds.items() if field.kind == "memory")
        kept = {f: v for f, v in values.items() if f not in self._learned[name] and not _is_switch(f, kinds)}
        self._fields[name] = kept
        for field in self._learned[name]:
            start = self._start(kinds[field], values[field])
            if values[f"{field}_learned"]:
                self.register_parameter(f"{name}/{field}", nn.Parameter(start))
            else:
                self.register_buffer(f"{name}/{field}", start, persistent=False)
        for field in self._memory[name]:
            self.register_buffer(f"{name}/{field}", self._start(kinds[field], kinds[field].default))

    def _start(self, field: Field, value: Any) -> Tensor:
        """Where a tensor starts: the numbers given, or what the field makes of the tree."""
        if value != FROM_TREE or field.start is None:
            return torch.tensor(value)
        if self.tree is None or self.tree.flat or self._width is None:
            raise ConfigError(f"{field.name}={value!r} needs a tree over the classes and the latents' width: give both")
        return torch.as_tensor(field.start(self.tree, self._width)).detach().float().clone()

    # ------------------------------------------------------------------ a step
    def forward(self, batch: Batch) -> ObjectiveOutput:
        """The weighted sum, and each term. In training mode it counts as a step."""
        losses, memory = self.compute(batch, self.tensors())
        if self.training:
            for name, value in memory.items():
                setattr(self, name, value.detach())
        terms_T = torch.stack(losses)
        if self.weighting is None:
            return ObjectiveOutput(losses[0], terms_T, self.parts)
        return ObjectiveOutput(self.weighting(self._grouped(terms_T)), terms_T, self.parts)

    def pure(self, batch: Batch, state: Mapping[str, Tensor]) -> Step:
        """A step as a pure function, which torch.func.vmap takes. state: as `state()`, and `numbers()` as tensors."""
        losses, memory = self.compute(batch, state)
        terms_T = torch.stack(losses)
        if self.weighting is None:
            return Step(losses[0], terms_T, terms_T.new_ones(()), memory)
        own = {n.removeprefix("weighting."): t for n, t in state.items() if n.startswith("weighting.")}
        total, share_T, kept = self.weighting.weigh(self._grouped(terms_T), own)
        memory = {**memory, **{f"weighting.{name}": value for name, value in kept.items()}}
        return Step(total, terms_T, share_T[0].detach(), {n: t.detach() for n, t in memory.items()})

    def multipliers(self, terms_T: Tensor) -> Tensor:
        """d total / d L of each of `parts`, at losses terms_T: what a term's gradient is multiplied by."""
        if self.weighting is None:
            return torch.ones_like(terms_T)
        leaf_T, weighting = terms_T.detach().requires_grad_(), self.weighting
        total = weighting.weigh(self._grouped(leaf_T), {n: t.detach() for n, t in weighting.state().items()})[0]
        found: Tensor = torch.autograd.grad(total, leaf_T)[0]
        return found

    def state(self) -> dict[str, Tensor]:
        """What is learned and remembered, by the names of the state_dict."""
        found = self.tensors()
        if self.weighting is not None:
            found |= {f"weighting.{name}": value for name, value in self.weighting.state().items()}
        return found

    def numbers(self) -> dict[str, float]:
        """The fields in which stacked heads may differ: numbers, but for zeros, which switch a part off."""
        found = {
            f"{name}/{field}": value
            for name, fields in self._fields.items()
            for field, value in fields.items()
            if type(value) is float and value
        }
        if self.weighting is not None:
            found |= {f"weighting.{field}": value for field, value in self.weighting.numbers().items() if value}
        return found

    def compute(self, batch: Batch, tensors: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """(each term's mean loss, new values of memory): a pure function, which torch.func.vmap takes.

        tensors: by "term/field": what is learned and remembered (`tensors()`); and where heads that are stacked differ
        in a field that is a number, that number, which takes the place of the configuration's.
        """
        losses, kept = [], dict[str, Tensor]()
        for name in self.parts:
            of_it = {f.removeprefix(f"{name}/"): t for f, t in tensors.items() if f.startswith(f"{name}/")}
            try:
                found = self._terms[name].fn(batch, **{**self._fields[name], **of_it})
            except ConfigError as error:
                raise type(error)(f"term {name!r} {error}") from error
            if isinstance(found, tuple):
                found, new = found
                kept |= {f"{name}/{f}": value for f, value in self._remembered(name, new, of_it).items()}
            losses.append(_mean(name, found, batch))
        return losses, kept

    def _remembered(self, name: str, new: Mapping[str, Any], before: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for field, value in new.items():
            if field not in self._memory[name]:
                raise ConfigError(
                    f"term {name!r} returns {field!r} to keep: expected {', '.join(self._memory[name]) or 'nothing'}, "
                    "what its parameters mark as Memory"
                )
            if not isinstance(value, Tensor) or value.shape != before[field].shape:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ConfigError(
                    f"term {name!r} returns {field!r} of {shape}: expected a tensor {tuple(before[field].shape)}"
                )
        return new

    def tensors(self) -> dict[str, Tensor]:
        """What the terms have learned and remember, by "term/field"."""
        fields = [(name, f) for name in self.parts for f in (*self._learned[name], *self._memory[name])]
        return {f"{name}/{f}": getattr(self, f"{name}/{f}") for name, f in fields}

    def batch(self, logits: Tensor, z_ND: Tensor, y_N: Tensor, **more: Any) -> Batch:
        """A Batch with this objective's tree and label embeddings."""
        labels = [getattr(self, f"level_{level}") for level in range(self._levels)]
        return Batch(logits, z_ND, y_N, tree=self.tree, labels=labels, **more)

    def _grouped(self, terms_T: Tensor) -> Tensor:
        """The terms of a group that has one weight, summed."""
        if len(self.names) == len(self.parts):
            return terms_T
        single = [index for index, name in enumerate(self.parts) if name in self.names]
        grouped = [index for index in range(len(self.parts)) if index not in single]
        return torch.cat((terms_T[single], terms_T[grouped].sum(0, keepdim=True)))

    def freeze(self, *, alpha: bool, beta: bool) -> None:
        """To be called as an epoch begins. alpha: the terms' weights keep their value; beta: what the terms learn."""
        if self.weighting is not None:
            self.weighting.frozen = alpha
        for name, parameter in self.named_parameters():
            frozen = alpha if name.startswith("weighting.") else beta
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None  # else an optimiser's momentum would carry it on

    # ------------------------------------------------------------------ to log once an epoch (waits for the device)
    def weights(self) -> dict[str, float]:
        """Share of each of `names`; they sum to 1 (laresa.weighting says what that means under each rule)."""
        if self.weighting is None:
            return {self.parts[0]: 1.0}
        return dict(zip(self.names, self.weighting.shares().tolist(), strict=True))

    def entropy(self) -> float:
        """Of the weights, in nats: log(number of terms) where all are equal, 0 where one has all."""
        return -sum(w * math.log(w) for w in self.weights().values() if w > 0)

    def learned(self) -> dict[str, float]:
        """What the terms have learned, by the names that it has in MLflow: `Term.show`'s, else `angular.scale`.

        A matrix is not listed number by number: a term shows of it what can be read.
        """
        found: dict[str, float] = {}
        for name, fields in self._learned.items():
            values = {field: getattr(self, f"{name}/{field}").detach() for field in fields}
            if (show := self._terms[name].show) is not None:
                found |= show(values)
                continue
            for field, value in ((f, v) for f, v in values.items() if v.ndim < 2):
                numbers = value.flatten().tolist()
                single = len(numbers) == 1
                found |= {f"{name}.{field}" + ("" if single else f".{i}"): x for i, x in enumerate(numbers)}
        return found

    def collapse_step(self) -> int | None:
        """The first training step (from 1) at which the base term's share was under 0.05; None if there was none."""
        step = -1 if self.weighting is None else int(self.weighting.collapsed_at)
        return None if step < 0 else step


def check_tree(parts: Sequence[str], tree: Taxonomy) -> None:
    """ConfigError: a term needs a tree over the classes, and there is none. Before anything is trained."""
    need = [name for name in parts if term(name).tree]
    if tree.flat and need:
        raise ConfigError(
            f"{' and '.join(need)} {'need' if len(need) > 1 else 'needs'} a tree over the classes, and the data set is "
            "flat: give it a taxonomy.json, or choose terms that need none"
        )


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


def _mean(name: str, loss: Any, batch: Batch) -> Tensor:
    if not isinstance(loss, Tensor):
        raise ConfigError(
            f"term {name!r} gave {type(loss).__name__}: expected a tensor, a loss per sample or one in all"
        )
    if loss.ndim == 0:
        return loss
    if loss.shape != batch.y_N.shape:
        raise ConfigError(
            f"term {name!r} gave a loss of shape {tuple(loss.shape)}: expected one per sample, "
            f"{tuple(batch.y_N.shape)}, or a scalar"
        )
    return loss.mean()


def _is_switch(field: str, kinds: Mapping[str, Any]) -> bool:
    """Whether it is `<name>_learned` of a learned tensor."""
    name = field.removesuffix("_learned")
    return name != field and name in kinds and kinds[name].kind == "learned"


def _vectors(config: TrialConfig) -> dict[str, Any]:
    """The weighting's fields, those of one number a term gathered into tuples."""
    gathered: dict[str, Any] = {}
    for name, value in config.values(config.weighting).items():
        field, dot, _ = name.partition(".")
        gathered[field] = (*gathered.get(field, ()), value) if dot else value
    return gathered

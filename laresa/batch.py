"""Batch: what a loss term reads of one model's step. What several terms share is computed once, when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, one_hot

from laresa.errors import ConfigError, LatentWidthError

if TYPE_CHECKING:
    from laresa.taxonomy import Taxonomy

EPS = 1e-12  # a norm below it counts as zero
LEVELS = {"fine": 0, "coarse": 1}
INPUTS = ("raw", "unit", "scaled")
Level = str | int


class Batch:
    """N samples of one model.

    logits: N x outputs of the base term's head. z_ND: raw latents. y_N: int64 classes. features_NF: what the backbone
    gave. view_ND: latents of a second augmentation of the same images (terms with views=2). target_NC: the classes'
    shares; one-hot unless an augmentation mixed images. tree: the Taxonomy. labels: unit embeddings by level, C x D
    each: the class's own text, its parent's, and so on. epoch: from 1.

    Losses are computed in float32 (or wider), under autocast too. K stacked heads are torch.func.vmap over this: a
    Batch is made inside the function that is mapped.
    """

    def __init__(
        self,
        logits: Tensor,
        z_ND: Tensor,
        y_N: Tensor,
        *,
        tree: Taxonomy | None = None,
        labels: Sequence[Tensor] = (),
        features_NF: Tensor | None = None,
        view_ND: Tensor | None = None,
        target_NC: Tensor | None = None,
        epoch: int = 1,
        classes: int | None = None,
        uniform: Callable[[Sequence[int]], Tensor] | None = None,
    ) -> None:
        self.logits, self.z_ND, self.y_N, self.epoch = _wide(logits), _wide(z_ND), y_N, epoch
        self.labels = labels
        self._tree, self._features_NF, self._view_ND, self._mixed_NC = tree, features_NF, view_ND, target_NC
        self._classes, self._uniform = classes, uniform
        self._cosines: dict[Any, Tensor] = {}
        self._scores: dict[int, Tensor] = {}
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}

    # ------------------------------------------------------------------ what was given
    @property
    def tree(self) -> Taxonomy:
        """The classes' tree. ConfigError: the data set has none (it is flat)."""
        if self._tree is None or self._tree.flat:
            raise ConfigError("needs a tree over the classes, and the data set is flat: give it a taxonomy.json")
        return self._tree

    @property
    def classes(self) -> int:
        """C."""
        if self._classes is not None:
            return self._classes
        return self._tree.leaves if self._tree is not None else self.logits.shape[-1]

    @property
    def features_NF(self) -> Tensor:
        if self._features_NF is None:
            raise ConfigError("needs the backbone's features, which this way of training does not give")
        return _wide(self._features_NF)

    @property
    def view_ND(self) -> Tensor:
        if self._view_ND is None:
            raise ConfigError("needs a second view of each image: declare the term as Term(fn, views=2)")
        return _wide(self._view_ND)

    @property
    def mixed(self) -> bool:
        """Whether the targets are shares of several classes."""
        return self._mixed_NC is not None

    @cached_property
    def target_NC(self) -> Tensor:
        if self._mixed_NC is not None:
            return self._mixed_NC.to(self.logits.dtype)
        return one_hot(self.y_N, self.classes).to(self.logits.dtype)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers in [0, 1), float32, from the trial's own stream: the same after a resume."""
        if self._uniform is None:
            return torch.rand(tuple(shape), device=self.y_N.device)
        return self._uniform(shape)

    # ------------------------------------------------------------------ what terms share
    @cached_property
    def unit_ND(self) -> Tensor:
        """z / |z|; a zero z gives zero and no gradient."""
        return unit(self.z_ND)

    def cosines(self, level: Level) -> Tensor:
        """cos(z, text) per sample (N), the text being the one of the sample's own class.

        level: "fine" (the class), "coarse" (its parent), a number (0 the class, 1 its parent, ...), or "negative":
        another class, drawn uniformly. Under mixed targets the mean over the targets' shares. A zero z has cosine 0.
        """
        key = level if level == "negative" else self._number(level)
        if key not in self._cosines:
            self._cosines[key] = self._computed(key)
        return self._cosines[key]

    def scores(self, level: Level) -> Tensor:
        """cos(z, text) with every class's text of that level: N x C."""
        number = self._number(level)
        if number not in self._scores:
            self._scores[number] = self.unit_ND @ self.table(number).T
        return self._scores[number]

    def cosines_to(self, class_N: Tensor) -> Tensor:
        """cos(z, text) with the own text of a class chosen for each sample (N)."""
        return (self.unit_ND * embedding(class_N, self.table("fine"))).sum(-1)

    def cosines_in(self, table_CD: Tensor) -> Tensor:
        """cos(z, row) with the own class's row of a table of unit rows, per sample (N); a zero row has cosine 0.

        Under mixed targets the mean over the targets' shares.
        """
        if self.mixed:
            return ((self.unit_ND @ table_CD.T) * self.target_NC).sum(-1)
        return (self.unit_ND * embedding(self.y_N, table_CD)).sum(-1)

    @cached_property
    def negative_N(self) -> Tensor:
        """A class drawn uniformly from the others, for each sample. LARESA sec. 2.3."""
        if self.classes < 2:
            raise ConfigError("needs a second class to draw negatives from")
        shift_N = (self.uniform(self.y_N.shape) * (self.classes - 1)).long().clamp_max(self.classes - 2) + 1
        return (self.y_N + shift_N) % self.classes

    def table(self, level: Level) -> Tensor:
        """C x D: unit embeddings of each class's text at a level. ConfigError: there are none, or not of z's width."""
        number = self._number(level)
        if number > 0:
            _ = self.tree
        if number >= len(self.labels):
            raise ConfigError(f"needs label embeddings of level {number}: there are those of {len(self.labels)} levels")
        table_CD = self.labels[number]
        if table_CD.shape[-1] != (width := self.z_ND.shape[-1]):
            raise LatentWidthError(
                f"holds latents of width {width} against label embeddings of width {table_CD.shape[-1]}: expected "
                f"latent_dim={table_CD.shape[-1]}, an encoder of width {width}, or terms that read no text"
            )
        return table_CD.to(self.z_ND.dtype)

    def latents(self, form: str = "raw") -> Tensor:
        """z as a term reads it (N x D): "raw"; "unit", z / |z|; "scaled", z / |z| sqrt(D), whose entries are near 1."""
        if form not in INPUTS:
            raise ConfigError(f"asks for latents {form!r}: expected one of {', '.join(INPUTS)}")
        if form == "raw":
            return self.z_ND
        return self.unit_ND if form == "unit" else self.unit_ND * self.z_ND.shape[-1] ** 0.5

    def moments(self, form: str = "raw") -> tuple[Tensor, Tensor]:
        """(mean_D, sigma_D) of `latents(form)` over the batch, with Bessel's correction; a batch of one has sigma 1."""
        if form not in self._moments:
            self._moments[form] = moments(self.latents(form))
        return self._moments[form]

    # ------------------------------------------------------------------ how
    def _computed(self, level: Level) -> Tensor:
        if level == "negative":
            return self.cosines_to(self.negative_N)
        if self.mixed:
            return (self.scores(level) * self.target_NC).sum(-1)
        return self.cosines_in(self.table(level))

    def _number(self, level: Level) -> int:
        number = LEVELS.get(level, level) if isinstance(level, str) else level
        if not isinstance(number, int) or number < 0:
            raise ConfigError(f"asks for level {level!r}: expected 'fine', 'coarse', 'negative' or a number from 0")
        return number


def unit(z_ND: Tensor) -> Tensor:
    """z / |z| by rows; a zero row stays zero and has gradient 0."""
    found: Tensor = _Unit.apply(z_ND)[0]
    return found


def moments(z_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(mean_D, sigma_D) over the batch, sigma with Bessel's correction. A batch of one has sigma 1 and no gradient."""
    mean_D, sigma_D, _ = _Moments.apply(z_ND)
    return mean_D, sigma_D


def _wide(x: Tensor) -> Tensor:
    """At least float32. Enough under autocast too: no operation of the losses is one that autocast narrows."""
    return x if x.dtype == torch.float64 else x.float()


class _Unit(torch.autograd.Function):
    """By hand, because autograd's chain through norm and quotient writes N x D several times over."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z_ND: Tensor) -> tuple[Tensor, Tensor]:
        norm_N1 = torch.linalg.vector_norm(z_ND, dim=-1, keepdim=True)
        inverse_N1 = torch.where(norm_N1 < EPS, 0.0, norm_N1.reciprocal())
        return z_ND * inverse_N1, inverse_N1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor, _: Tensor) -> Tensor:
        unit_ND, inverse_N1 = ctx.saved_tensors
        along_N1 = (grad_ND * unit_ND).sum(-1, keepdim=True)
        return (grad_ND - unit_ND * along_N1) * inverse_N1


class _Moments(torch.autograd.Function):
    """By hand for the same reason; torch.std over the batch is also slow on a CPU (4x)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean_D = z_ND.mean(0)
        centred_ND = z_ND - mean_D
        if len(z_ND) < 2:
            return mean_D, torch.ones_like(mean_D), centred_ND
        return mean_D, (centred_ND.square().sum(0) / (len(z_ND) - 1)).sqrt(), centred_ND

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, sigma_D, centred_ND = output
        ctx.mark_non_differentiable(centred_ND)
        ctx.save_for_backward(centred_ND, sigma_D)

    @staticmethod
    def backward(ctx: Any, grad_mean_D: Tensor, grad_sigma_D: Tensor, _: Tensor) -> Tensor:
        centred_ND, sigma_D = ctx.saved_tensors
        n = len(centred_ND)
        slope_D = grad_sigma_D / (sigma_D * max(n - 1, 1)).clamp_min(EPS)
        return torch.addcmul(grad_mean_D / n, centred_ND, slope_D)

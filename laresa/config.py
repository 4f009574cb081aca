"""TrialConfig: everything that decides what is learned, checked when it is made, and its signature."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from laresa.errors import ConfigError, nearest

TERMS = ("ce", "anchor", "triplet", "center", "variance")
PARTS = ("ce", "anchor", "triplet", "reg", "center", "variance")
SUBSETS = (
    "ce",
    "ce+reg",
    "ce+anchor",
    "ce+anchor+reg",
    "ce+triplet",
    "ce+triplet+reg",
    "ce+anchor+triplet",
    "ce+anchor+triplet+reg",
)
WEIGHTINGS = ("softmax", "fixed", "uncertainty", "kl", "floor", "ce_outside", "normalised")
AUGMENTATIONS = ("autoaugment", "resizedcrop", "crop", "flip")


@functools.cache  # reading a sweep asks some times for every trial
def canonical_subset(subset: str) -> str:
    """Parts in the order of the paper's table, without repeats; center and variance together are "reg"."""
    parts = [part.strip() for part in subset.split("+")]
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"unknown loss {part!r} in subset {subset!r}{nearest(part, PARTS)}")
    if len(set(parts)) < len(parts):
        raise ConfigError(f"subset {subset!r} names a loss twice")
    if "reg" in parts and {"center", "variance"} & set(parts):
        raise ConfigError(f"subset {subset!r}: 'reg' already means center and variance")
    if {"center", "variance"} <= set(parts):
        parts = [part for part in parts if part not in ("center", "variance")] + ["reg"]
    if "ce" not in parts:
        raise ConfigError(f"subset {subset!r} has no 'ce': a classifier needs its cross-entropy")
    return "+".join(part for part in PARTS if part in parts)


def subset_terms(subset: str, *, group_reg: bool = False) -> tuple[str, ...]:
    """The terms that carry a weight of their own, in order.

    "ce+reg" -> ("ce", "center", "variance"), as App. A and Fig. 4 of LARESA show; with group_reg ("ce", "reg"), Eq. 3.
    """
    parts = canonical_subset(subset).split("+")
    if "reg" in parts and not group_reg:
        parts = [part for part in parts if part != "reg"] + ["center", "variance"]
    return tuple(parts)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One point of the search space.

    A field that has no effect in a subset becomes None: equal learning, equal signature.
    Defaults are the LARESA paper's (App. A) where it states one.
    """

    # data
    dataset: str = "emoji120"
    fold: int = 0
    split_seed: int = 42
    exchange_splits: bool | None = None  # True: the fold's validation and test part change places; else absent
    image_size: int | None = None  # pixels; None: the data set's own
    skip_bad_images: bool = False  # leave out images of a folder that don't decode, instead of refusing
    augment: str = "crop+flip"  # "+"-joined AUGMENTATIONS, or "none"
    # label semantics
    encoder: str = "all-MiniLM-L6-v2"
    label_text: str = "name"  # or "description"
    shuffle_labels: bool | None = None  # control: embeddings permuted over the classes (by `seed`)
    # model
    backbone: str = "test_resnet"
    pretrained: bool = False
    input_size: int | None = None  # pixels the backbone sees, resized on the device; None: image_size
    latent_dim: int | None = None  # None: the width of the label embeddings
    # objective
    subset: str = "ce+anchor+triplet+reg"
    margin: float | None = None  # triplet; default 0.2
    variance_reduction: str | None = None  # "sum" (the paper) or "mean" over the latent dimensions
    beta_init: tuple[float, float] | None = None  # anchor: logits of (fine, coarse); default (1, 1)
    beta_learned: bool | None = None  # default True; False keeps softmax(beta_init)
    group_reg: bool | None = None  # one weight for center + variance (Eq. 3) instead of two (App. A)
    # weighting
    weighting: str | None = None  # default "softmax"
    alpha_init: tuple[float, ...] | None = None  # one logit a term, in the order of `terms`; default all 1
    alpha_lr: float | None = None  # learning rate of alpha and beta; None: `lr`
    fixed_weights: tuple[float, ...] | None = None  # weighting "fixed": the weights; "kl": the prior; None: equal
    freeze_epoch: int | None = None  # weights are kept from this epoch on (the paper's safeguard)
    kl_tau: float | None = None  # weighting "kl": strength; default 1
    floor_eps: float | None = None  # weighting "floor": default 0.5
    aux_scale: float | None = None  # weighting "ce_outside": lambda; default 1
    # optimisation
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "none"  # or "cosine"
    batch_size: int = 128
    epochs: int = 1000
    patience: int = 100  # epochs without a better validation top-1 before training stops
    seed: int = 42
    # arithmetic
    precision: str = "fp32"  # or "bf16": autocast
    channels_last: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _coerce(field.name, str(field.type), getattr(self, field.name)))
        object.__setattr__(self, "subset", canonical_subset(self.subset))
        self._resolve_effect()
        self._check()

    # ------------------------------------------------------------------ what follows from the fields
    @property
    def parts(self) -> tuple[str, ...]:
        """Losses of the subset, "reg" expanded: what is computed."""
        return subset_terms(self.subset)

    @property
    def terms(self) -> tuple[str, ...]:
        """Terms that carry a weight: `parts`, or with "reg" as one if group_reg."""
        return subset_terms(self.subset, group_reg=bool(self.group_reg))

    @property
    def augmentations(self) -> tuple[str, ...]:
        return () if self.augment == "none" else tuple(self.augment.split("+"))

    def replace(self, **changes: Any) -> TrialConfig:
        """A copy with fields changed; what had no effect before takes its default if it has one now.

        Equal logits or weights follow a change in the number of terms; unequal ones must be given anew.
        """
        fields = self.to_dict()
        for name in ("alpha_init", "fixed_weights"):
            if fields[name] and len(set(fields[name])) == 1 and fields[name][0] in (1.0, 1.0 / len(self.terms)):
                fields[name] = None
        return type(self).from_dict({**fields, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; without `exchange_splits` where it is None, as every other signature was made."""
        fields = dataclasses.asdict(self)
        if self.exchange_splits is None:
            del fields["exchange_splits"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrialConfig:
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise ConfigError(f"unknown field {name!r} of TrialConfig{nearest(name, known)}")
        return cls(**fields)

    def signature(self, ignore: Iterable[str] = ()) -> str:
        """12 hex digits of sha256 over the canonical JSON of all learning fields, those in `ignore` left out."""
        ignored = set(ignore)
        fields = {name: value for name, value in self.to_dict().items() if name not in ignored}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    # ------------------------------------------------------------------ construction
    def _resolve_effect(self) -> None:
        """Fill the default of a field that has an effect; set one that has none to None."""
        parts = self.parts
        several, semantic = len(parts) > 1, bool({"anchor", "triplet"} & set(parts))
        self._effective("exchange_splits", bool(self.exchange_splits), None)
        self._effective("shuffle_labels", semantic, False)
        self._effective("margin", "triplet" in parts, 0.2)
        self._effective("variance_reduction", "variance" in parts, "sum")
        self._effective("beta_init", "anchor" in parts, (1.0, 1.0))
        self._effective("beta_learned", "anchor" in parts, True)
        self._effective("group_reg", {"center", "variance"} <= set(parts), False)
        self._effective("weighting", several, "softmax")
        learned = several and self.weighting != "fixed"
        count = len(self.terms) - (self.weighting == "ce_outside")
        self._effective("alpha_init", learned, (1.0,) * count)
        self._effective("alpha_lr", learned or bool(self.beta_learned), None)
        if self.alpha_lr == self.lr:
            object.__setattr__(self, "alpha_lr", None)  # the same learning either way
        self._effective("fixed_weights", self.weighting in ("fixed", "kl"), (1.0 / len(self.terms),) * len(self.terms))
        self._effective("kl_tau", self.weighting == "kl", 1.0)
        self._effective("floor_eps", self.weighting == "floor", 0.5)
        self._effective("aux_scale", self.weighting == "ce_outside", 1.0)
        if not learned:
            object.__setattr__(self, "freeze_epoch", None)

    def _effective(self, name: str, has_effect: bool, default: Any) -> None:
        value = getattr(self, name)
        object.__setattr__(self, name, None if not has_effect else default if value is None else value)

    def _check(self) -> None:
        positive = (
            "lr",
            "batch_size",
            "epochs",
            "patience",
            "image_size",
            "input_size",
            "latent_dim",
            "alpha_lr",
            "freeze_epoch",
        )
        not_negative = ("fold", "seed", "split_seed", "weight_decay", "margin", "kl_tau", "aux_scale")
        for name in positive:
            _require(name, getattr(self, name), lambda value: value > 0, "a number > 0")
        for name in not_negative:
            _require(name, getattr(self, name), lambda value: value >= 0, "a number >= 0")
        _require("floor_eps", self.floor_eps, lambda value: 0 < value <= 1, "a number in (0, 1]")
        _choice("weighting", self.weighting, WEIGHTINGS)
        _choice("schedule", self.schedule, ("none", "cosine"))
        _choice("precision", self.precision, ("fp32", "bf16"))
        _choice("label_text", self.label_text, ("name", "description"))
        _choice("variance_reduction", self.variance_reduction, ("sum", "mean"))
        for name in self.augmentations:
            _choice("augment", name, AUGMENTATIONS)
        if len(set(self.augmentations)) < len(self.augmentations):
            raise ConfigError(f"augment={self.augment!r} names an augmentation twice")
        logits = tuple(t for t in self.terms if not (t == "ce" and self.weighting == "ce_outside"))
        _length("alpha_init", self.alpha_init, logits)
        _length("beta_init", self.beta_init, ("fine", "coarse"))
        _length("fixed_weights", self.fixed_weights, self.terms)
        _require(
            "fixed_weights", self.fixed_weights, lambda w: min(w) >= 0 and sum(w) > 0, "weights >= 0, not all zero"
        )
        if self.weighting == "kl":
            _require("fixed_weights", self.fixed_weights, lambda w: min(w) > 0, "a prior with every weight > 0")


def _require(name: str, value: Any, holds: Callable[[Any], bool], expected: str) -> None:
    if value is not None and not holds(value):
        raise ConfigError(f"{name}={value!r}: expected {expected}")


def _choice(name: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"unknown {name} {value!r}{nearest(value, known)}")


def _length(name: str, value: tuple[float, ...] | None, terms: tuple[str, ...]) -> None:
    if value is not None and len(value) != len(terms):
        raise ConfigError(f"{name}={value!r} has {len(value)} numbers: expected {len(terms)}, for {', '.join(terms)}")


def _coerce(name: str, annotation: str, value: Any) -> Any:
    """The value in its field's one type (1 -> 1.0 for a float, list -> tuple), or a ConfigError. No silent guess."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if value is None:
        if "None" in kinds:
            return None
        raise ConfigError(f"{name}=None: expected {annotation}")
    kind = kinds[0]
    if kind.startswith("tuple"):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ConfigError(f"{name}={value!r}: expected a list of numbers")
        return tuple(_coerce(name, "float", item) for item in value)
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{name}={value!r}: expected a finite number")
        return float(value)
    if kind == "int" and isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value):
        return int(value)
    if (kind == "bool" and isinstance(value, bool)) or (kind == "str" and isinstance(value, str)):
        return value
    raise ConfigError(f"{name}={value!r} is {type(value).__name__}: expected {annotation}")


def parse_field(name: str, text: str) -> Any:
    """The value of `--set name=text`: JSON where it is JSON ("0.1", "[1, 2]", "true", "null"), else the text itself."""
    known = {field.name for field in dataclasses.fields(TrialConfig)}
    if name not in known:
        raise ConfigError(f"unknown field {name!r} in --set {name}={text}{nearest(name, known)}")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text

"""TrialConfig: everything that decides what is learned. What was given stays as given; defaults are resolved once.

Each part's fields stand beside the part: the dataclasses named in PARTS, and the keyword-only parameters of the
components (terms, weightings, augmentations, ...) that a configuration uses. Free of torch until a configuration is
checked or resolved: what the tracker holds is read without (`from_record`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from laresa.errors import ConfigError, nearest
from laresa.fields import Field, PerTerm, check_value, fields_of, fields_of_dataclass, plain

if TYPE_CHECKING:
    from laresa.plugins import Plugin

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
# By name: a data set's fields are no part of a loss's code (laresa.code), and a query needs none of them.
PARTS = (
    ("laresa.data.dataset", "DataConfig"),
    ("laresa.labels", "TextConfig"),
    ("laresa.model", "ModelConfig"),
    ("laresa.objective", "ObjectiveConfig"),
    ("laresa.methods.loop", "TrainingConfig"),
)
ABSENT = (  # fields that are left out where they have no effect; None then
    *("image_size", "exchange_splits", "train_fraction", "shots", "corruptions", "shuffle_labels"),
    *("prompt", "random_labels", "label_noise", "coarse_noise"),
    *("normalisation",),
    *("input_size", "stem", "dropout", "latent_dim"),
    *("weighting", "group_weights", "alpha_lr"),
    *("freeze_alpha", "freeze_beta", "freeze_patience"),
    *("pretrained", "channels_last", "augment"),
)
RENAMED = {  # of before
    "variance_reduction": "variance.reduction",
    "beta_init": "anchor.beta",
    "beta_learned": "anchor.beta_learned",
    "group_reg": "group_weights",
    "fixed_weights": "fixed.weights (or kl.prior)",
    "kl_tau": "kl.tau",
    "floor_eps": "floor.eps",
    "aux_scale": "base_outside.scale",
    "freeze_epoch": "freeze_alpha (or freeze_beta)",
}
ALPHA = "alpha_init"
CHOICES = {  # field that names a component (or several, joined by "+") -> kind of component
    "weighting": "WEIGHTINGS",
    "augment": "AUGMENTATIONS",
    "dataset": "DATASETS",
    "backbone": "BACKBONES",
    "method": "METHODS",
    "optimizer": "OPTIMIZERS",
    "schedule": "LR_SCHEDULES",
}


class TrialConfig:
    """One point of the search space.

    TrialConfig(subset="ce+anchor", lr=1e-3, **{"anchor.beta": [1, 2]}): every name and value is checked; dotted names
    may be shortened where no other component has the field (`margin`). `given` is what was said, `resolved` every
    field that has an effect, defaults filled in: equal learning, equal `resolved`, equal signature.
    Attributes read it (`config.epochs`; None for one of ABSENT without effect), `config["triplet.margin"]` too.

    >>> config = TrialConfig(subset="triplet+ce", margin=0.5, **{"alpha_init.ce": 2})
    >>> config.given
    {'subset': 'triplet+ce', 'triplet.margin': 0.5, 'alpha_init.ce': 2.0}
    >>> config.subset, config.values("triplet"), config.alpha_init
    ('ce+triplet', {'margin': 0.5, 'negatives': 'uniform'}, (2.0, 1.0))
    >>> config.replace(subset="ce") == TrialConfig(subset="ce")  # what has no effect makes no other configuration
    True

    ConfigError: an unknown name, a value that its field does not take; when resolved, what does not fit together.
    """

    def __init__(self, **given: Any) -> None:
        self._given = dict(_checked(given))
        self._resolved: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrialConfig:
        return cls(**fields)

    @classmethod
    def from_record(cls, fields: Mapping[str, Any]) -> TrialConfig:
        """A configuration as a tracker or a file keeps it, resolved and unchecked: no component is needed to read it.

        It is checked when it is to be used (`replace`, `train`).
        """
        made = cls.__new__(cls)
        made._given = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        made._resolved = made._given
        return made

    # ------------------------------------------------------------------ reading
    @property
    def given(self) -> Mapping[str, Any]:
        return dict(self._given)

    @property
    def resolved(self) -> Mapping[str, Any]:
        """Every field that has an effect, by its full name."""
        if self._resolved is None:
            self._resolved = resolve(self._given)
        return self._resolved

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            resolved = self.resolved
            if name in resolved:
                return resolved[name]
            if name in ABSENT:
                return None
        raise AttributeError(f"TrialConfig has no field {name!r}")

    def __getitem__(self, name: str) -> Any:
        """A field by its full or short name. ConfigError: it has no effect here, or there is none."""
        found = [full for full in self.resolved if full == name or full.partition(".")[2] == name]
        if len(found) != 1:
            raise ConfigError(f"field {name!r} has no effect in this configuration{nearest(name, self.resolved)}")
        return self.resolved[found[0]]

    def values(self, component: str) -> dict[str, Any]:
        """A component's fields by their own names: values("triplet") -> {"margin": 0.2, ...}."""
        start = f"{component}."
        return {name[len(start) :]: value for name, value in self.resolved.items() if name.startswith(start)}

    @property
    def parts(self) -> tuple[str, ...]:
        """The terms that are computed, the base term first."""
        return _parts(self.subset)

    @property
    def terms(self) -> tuple[str, ...]:
        """What carries a weight: `parts`, or with group_weights a group as one."""
        return tuple(self.subset.split("+")) if self.group_weights else self.parts

    @property
    def alpha_init(self) -> tuple[float, ...]:
        """The learned weights' starting values, in the order of the terms that have one; () where none is learned."""
        return tuple(self.values(ALPHA).values())

    @property
    def augmentations(self) -> tuple[str, ...]:
        return _names(self.augment or "none")

    def part(self, kind: type) -> Any:
        """One part's own dataclass, such as laresa.model.ModelConfig."""
        names = [field.name for field in fields_of_dataclass(kind)]
        return kind(**{name: self.resolved[name] for name in names if name in self.resolved})

    def to_dict(self) -> dict[str, Any]:
        """`resolved` in plain JSON types."""
        return {name: plain(value) for name, value in self.resolved.items()}

    def signature(self, ignore: Iterable[str] = ()) -> str:
        """12 hex digits of sha256 over the canonical JSON of `resolved`, those in `ignore` left out; no code in it."""
        ignored = set(ignore)
        fields = {name: value for name, value in self.to_dict().items() if name not in ignored}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    # ------------------------------------------------------------------ making others
    def replace(self, **changes: Any) -> TrialConfig:
        """A copy with fields given otherwise. Nothing else changes: defaults follow when it is resolved.

        A vector given whole takes the place of entries that were given before.
        """
        new = dict(_checked(changes))
        kept = {name: value for name, value in self._given.items() if name.rpartition(".")[0] not in new}
        return type(self)(**{**kept, **new})

    def checked(self) -> TrialConfig:
        """A record's configuration, checked for use. ConfigError: a component it needs is not at hand."""
        return type(self)(**self._given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrialConfig) and self.resolved == other.resolved

    def __hash__(self) -> int:
        return hash(self.signature())

    def __repr__(self) -> str:
        return f"TrialConfig({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"


# ---------------------------------------------------------------------- the fields there are
@functools.cache
def core_fields() -> Mapping[str, Field]:
    """The fields of the parts, which every configuration has."""
    found: dict[str, Field] = {}
    for module, name in PARTS:
        found |= {field.name: field for field in fields_of_dataclass(getattr(importlib.import_module(module), name))}
    return found


def component_fields(kind: str, name: str) -> tuple[Field, ...]:
    """A component's fields, as `triplet.margin`."""
    from laresa.plugins import component

    if kind == "TERMS":
        from laresa.terms import term_fields

        return term_fields(name)
    found = component(kind, name)
    return fields_of(getattr(found, "fields", None) or getattr(found, "fn", found), name)


def all_fields() -> Mapping[str, Field]:
    """Every field that can be set with what is loaded now, by its full name."""
    from laresa.plugins import loaded

    return _all_fields(loaded())


@functools.lru_cache(maxsize=64)
def _all_fields(plugins: tuple[Plugin, ...]) -> Mapping[str, Field]:
    from laresa.plugins import table

    found = dict(core_fields())
    for kind in ("TERMS", *CHOICES.values()):
        for name in table(kind):
            for field in component_fields(kind, name):
                if field.kind != "memory":
                    found[field.name] = field
    found[ALPHA] = Field(
        ALPHA, float, 1.0, kind="per_term", per_term=PerTerm(lambda terms: 1.0), doc="logit each term starts with"
    )
    return found


def full_name(name: str) -> str:
    """The full name of a field: itself, or what a short name stands for; entries (`anchor.beta.0`) keep their end.

    ConfigError: unknown, ambiguous, or a name of 0.1.
    """
    known = all_fields()
    if name in known:
        return name
    head, _, entry = name.rpartition(".")
    if head and head in known and _is_entry(known[head], entry):
        return name
    if name in RENAMED:
        raise ConfigError(f"field {name!r} is called {RENAMED[name]} now")
    fits = [full for full in known if full.partition(".")[2] == name]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ConfigError(f"field {name!r} is ambiguous: {', '.join(fits)}")
    raise ConfigError(f"unknown field {name!r} of TrialConfig{nearest(name, known)}")


def _is_entry(field: Field, entry: str) -> bool:
    if field.kind == "per_term":
        from laresa.plugins import table

        return entry in table("TERMS") or entry in table("TERM_GROUPS")
    return isinstance(field.default, tuple) and entry.isdecimal() and int(entry) < len(field.default)


def field_of(name: str) -> Field:
    """The field behind a full name; of an entry one of its numbers."""
    known = all_fields()
    if name in known:
        return known[name]
    whole = known[name.rpartition(".")[0]]
    return Field(name, whole.entry_type, None, range=whole.range)


def _checked(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    seen: dict[str, str] = {}
    for said, value in given.items():
        name = full_name(said)
        if seen.setdefault(name, said) != said:
            raise ConfigError(f"{said!r} and {seen[name]!r} are the same field: give one")
        field = field_of(name)
        if field.kind == "per_term" and isinstance(value, (list, tuple)):
            yield name, tuple(check_value(field, entry) for entry in value)
        elif field.kind == "per_term":
            raise ConfigError(f"{said}={value!r}: expected a list of numbers, one a term, or {said}.TERM=NUMBER")
        elif value is None and name not in core_fields() and not field.optional:
            raise ConfigError(f"{said}=None: expected {field.type_name}")
        else:
            yield name, check_value(field, value)


# ---------------------------------------------------------------------- resolving
def resolve(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every field that has an effect, defaults filled in; absent fields left out."""
    from laresa.controls import check_texts
    from laresa.plugins import component
    from laresa.terms import canonical_subset, term, term_fields

    values = {name: given.get(name, field.default) for name, field in core_fields().items()}
    values["subset"] = canonical_subset(values["subset"])
    parts = _parts(values["subset"])
    if len(set(_names(values["augment"]))) < len(_names(values["augment"])):
        raise ConfigError(f"augment={values['augment']!r} names an augmentation twice")
    if values["shots"] is not None and values["train_fraction"] < 1:
        raise ConfigError(
            f"shots={values['shots']} and train_fraction={values['train_fraction']:g} both cut the training images: "
            "expected one of them"
        )
    check_texts(values["prompt"], shuffled=values["shuffle_labels"], noise=values["label_noise"])
    grouped = len(values["subset"].split("+")) < len(parts)
    several = len(parts) > 1
    terms = tuple(values["subset"].split("+")) if values["group_weights"] and grouped else parts
    dotted: dict[str, Any] = {}
    for name in parts:
        dotted |= _own(given, [field for field in term_fields(name) if field.kind != "memory"], terms)
    if several:
        dotted |= _own(given, component_fields("WEIGHTINGS", values["weighting"]), terms)
        logits = getattr(component("WEIGHTINGS", values["weighting"]), "logits", "all")
        if logits != "none":
            alpha = Field(ALPHA, float, None, kind="per_term", per_term=PerTerm(lambda count: 1.0, logits))
            dotted |= _own(given, [alpha], terms)
    unused = getattr(component("METHODS", values["method"]), "unused", ())
    for field, kind in CHOICES.items():
        if field == "weighting" or field in unused:
            continue
        for name in _names(values[field]) if field == "augment" else (values[field],):
            # A data set may be a folder, a backbone any of timm's: they have no fields of their own.
            if name in _table(kind) or field not in ("dataset", "backbone"):
                dotted |= _own(given, component_fields(kind, name), terms)
    weights = any(name.startswith(f"{ALPHA}.") for name in dotted)
    tensors = any(name.endswith("_learned") and value for name, value in dotted.items())
    plateau = "plateau" in (values["freeze_alpha"] if weights else None, values["freeze_beta"] if tensors else None)
    labelled = any(term(name).labels for name in parts)
    keep = {
        "prompt": values["prompt"] != core_fields()["prompt"].default,  # the metrics read it, as they do the encoder
        "shuffle_labels": labelled,
        **{name: labelled and bool(values[name]) for name in ("random_labels", "label_noise", "coarse_noise")},
        "group_weights": grouped and several,
        "weighting": several,
        "alpha_lr": (weights or tensors) and values["alpha_lr"] != values["lr"],
        "freeze_alpha": weights,
        "freeze_beta": tensors,
        "freeze_patience": plateau,
        "exchange_splits": bool(values["exchange_splits"]),
        "train_fraction": values["train_fraction"] < 1,
        "corruptions": values["corruptions"] != "none",
        "normalisation": values["normalisation"] != "auto",
        "stem": values["stem"] != "default",
        "dropout": values["dropout"] > 0,
        **dict.fromkeys(unused, False),
    }
    core = {name: value for name, value in values.items() if value is not None and keep.get(name, True)}
    return {**core, **dotted}


def _own(given: Mapping[str, Any], fields: Iterable[Field], terms: tuple[str, ...]) -> dict[str, Any]:
    """Fields with their values: as given, entry by entry where entries were given, else the default."""
    found: dict[str, Any] = {}
    for field in fields:
        if field.kind == "per_term":
            found |= _entries(given, field, terms)
            continue
        value = given.get(field.name, field.default)
        if isinstance(value, tuple):
            value = tuple(given.get(f"{field.name}.{index}", entry) for index, entry in enumerate(value))
        if value is not None or field.default is not None:  # None by default: nothing is asked for
            found[field.name] = check_value(field, value)
    return found


def _entries(given: Mapping[str, Any], field: Field, terms: tuple[str, ...]) -> dict[str, float]:
    assert field.per_term is not None
    wanted = terms[1:] if field.per_term.of == "others" else terms
    listed = given.get(field.name)
    if listed is not None and len(listed) != len(wanted):
        raise ConfigError(
            f"{field.name}={list(listed)!r} has {len(listed)} numbers: expected {len(wanted)}, for {', '.join(wanted)}"
        )
    start = listed or (field.per_term.default(len(wanted)),) * len(wanted)
    found = {
        f"{field.name}.{name}": float(given.get(f"{field.name}.{name}", value))
        for name, value in zip(wanted, start, strict=True)
    }
    if field.per_term.some and not any(value > 0 for value in found.values()):
        raise ConfigError(f"{field.name}={list(found.values())}: expected one above 0 at least")
    return found


def _parts(subset: str) -> tuple[str, ...]:
    from laresa.terms import groups

    return tuple(name for part in subset.split("+") for name in groups().get(part, (part,)))


def _names(joined: str) -> tuple[str, ...]:
    return () if joined == "none" else tuple(joined.split("+"))


def _table(kind: str) -> Mapping[str, Any]:
    from laresa.plugins import table

    return table(kind)


# ---------------------------------------------------------------------- as text
def parse_text(text: str) -> Any:
    """JSON where it is JSON, else the text itself: the inverse of `write_text`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also: thousands of digits, thousands of brackets
        return text


def write_text(value: Any) -> str:
    """A value as one line of text that `parse_text` reads back: words as they are, all else as JSON."""
    if isinstance(value, str) and parse_text(value) == value:
        return value
    return json.dumps(plain(value))

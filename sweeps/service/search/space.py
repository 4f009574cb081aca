"""Search space: Optuna distributions by field, and the one function that makes a TrialConfig of a suggestion.

A space is a plain mapping from a field's full name (`triplet.margin`; `alpha_init.anchor` and `anchor.beta.0` are one
number of several) to an Optuna distribution. A field is asked for only where it has an effect (a margin only with the
triplet), so that the sampler never learns from a parameter that did nothing.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from laresa.config import ABSENT, ALPHA, CHOICES, SUBSETS, TrialConfig, field_of, full_name, parse_text
from laresa.errors import ConfigError
from laresa.fields import Field, check_value
from laresa.plugins import component, table
from laresa.terms import canonical_subset, term_fields
from sweeps.service.study import Space

FIRST = ("subset", "group_weights", "weighting")  # the others' effect hangs on these
REPLICATE = ("seed", "fold", "exchange_splits", "dataset")
# They change what is learned, and are absent where they have their default.
WHERE_GIVEN = ("image_size", "input_size", "latent_dim", "train_fraction", "shots", "stem", "dropout", "prompt")
CONTROLS = ("random_labels", "label_noise", "coarse_noise")  # absent likewise, of terms that read the texts
ALPHA_RANGE = FloatDistribution(-1.0, 3.0)


def default_space() -> dict[str, BaseDistribution]:
    """What the objective leaves open: loss subset, weighting, learning rate, alpha's starting values, terms' fields.

    Of the terms those fields that name a Range or are Choices.
    """
    space: dict[str, BaseDistribution] = {
        "subset": CategoricalDistribution(SUBSETS),
        "weighting": CategoricalDistribution(tuple(table("WEIGHTINGS"))),
        "lr": default_distribution("lr"),
    }
    for name in table("TERMS"):
        space |= {
            field.name: default_distribution(field.name) for field in term_fields(name) if field.range or field.choices
        }
    return space | {f"{ALPHA}.{name}": ALPHA_RANGE for name in table("TERMS")}


def default_distribution(name: str) -> BaseDistribution:
    """Where a search looks for a field unless it is told. ConfigError: the field names no Range."""
    if name.startswith(f"{ALPHA}."):
        return ALPHA_RANGE
    field = field_of(name)
    if name in CHOICES and table(CHOICES[name]):
        return CategoricalDistribution(tuple(table(CHOICES[name])))
    if field.choices:
        return CategoricalDistribution(field.choices)
    if field.range is None:
        raise ConfigError(f"--space {name}: this field has no range of its own: give --space {name}=LOW:HIGH or A,B,C")
    if field.type is int:
        return IntDistribution(int(field.range.low), int(field.range.high), log=field.range.log)
    return FloatDistribution(field.range.low, field.range.high, log=field.range.log)


def without(space: Space, name: str) -> dict[str, BaseDistribution]:
    """The space less a field, with all its numbers."""
    return {key: found for key, found in space.items() if key != name and not key.startswith(f"{name}.")}


def check_space(space: Space, base: TrialConfig) -> None:
    """ConfigError for a field that does not exist, or a distribution whose values the field does not take."""
    for name, distribution in space.items():
        if full_name(name) != name:
            raise ConfigError(f"space: {name!r}: expected the full name {full_name(name)!r}")
        if name in REPLICATE:
            raise ConfigError(f"space: {name!r} is a replicate's, not a search dimension; use --seeds, --folds")
        field = field_of(name)
        if field.kind == "per_term" or isinstance(field.default, tuple):
            entry = "TERM" if field.kind == "per_term" else "0"
            raise ConfigError(f"space: {name!r} is several numbers: search one of them, as {name}.{entry}")
        for value in _extremes(distribution):
            _check_value(field, value)


def suggest(trial: optuna.Trial, space: Space, base: TrialConfig) -> TrialConfig:
    """A TrialConfig from `base` and what Optuna suggests for each field that has an effect."""
    config = base
    for name in sorted(space, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        if has_effect(name, config):
            config = config.replace(**{name: _ask(trial, name, space[name])})
    return config


def has_effect(name: str, config: TrialConfig) -> bool:
    """Whether a field (or one number of several) changes what `config` learns."""
    resolved = config.resolved
    if name in resolved or name in WHERE_GIVEN:
        return True
    if name in CONTROLS:
        return "shuffle_labels" in resolved
    if name in ("alpha_lr", "freeze_alpha", "freeze_beta"):
        weights = any(field.startswith(f"{ALPHA}.") for field in resolved)
        tensors = any(field.endswith("_learned") and value for field, value in resolved.items())
        return {"freeze_alpha": weights, "freeze_beta": tensors}.get(name, weights or tensors)
    head, _, entry = name.rpartition(".")
    return name not in ABSENT and entry.isdecimal() and isinstance(resolved.get(head), tuple)


def as_params(config: TrialConfig, space: Space) -> dict[str, Any]:
    """The suggestion that would give `config`: to enqueue a known configuration, the paper's own first of all.

    Without a setting that its axis can't hold, such as 0 on a logarithmic one: the sampler chooses there.
    """
    settings = {name: _value(name, config) for name in space if has_effect(name, config)}
    return {name: value for name, value in settings.items() if _holds(space[name], value)}


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        distribution.to_internal_repr(value)
    except ValueError:
        return False
    return True


def _value(name: str, config: TrialConfig) -> Any:
    if name == "alpha_lr":
        return config.alpha_lr or config.lr
    if name in config.resolved:  # first: its component need not be here
        return config.resolved[name]
    if name in ABSENT:
        return field_of(name).default
    head, _, entry = name.rpartition(".")
    return config.resolved[head][int(entry)]


def parse_space(text: str) -> tuple[str, BaseDistribution | None]:
    """(full name, distribution) of `--space`: FIELD, FIELD=RANGE, or FIELD=fixed (None)."""
    said, equals, ranged = text.partition("=")
    name = full_name(said)
    if ranged == "fixed":
        return name, None
    if not equals:
        return name, default_distribution(name)
    return name, parse_distribution(name, ranged)


def parse_distribution(name: str, text: str) -> BaseDistribution:
    """`--space` on the command line: "1e-4:1e-2:log", "16:128:int", "0:1" or "softmax,floor"."""
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return CategoricalDistribution([parse_text(part) for part in text.split(",")])
        low, high, *flags = parts
        if set(flags) - {"log", "int"}:
            raise ValueError(f"unknown flag {flags}")
        if "int" in flags:
            return IntDistribution(int(low), int(high), log="log" in flags)
        return FloatDistribution(float(low), float(high), log="log" in flags)
    except ValueError as error:
        raise ConfigError(
            f"--space {name}={text}: {error}; expected LOW:HIGH, LOW:HIGH:log, LOW:HIGH:int or A,B,C"
        ) from error


def _extremes(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, (FloatDistribution, IntDistribution)):
        return distribution.low, distribution.high
    raise ConfigError(
        f"space: {type(distribution).__name__} is no distribution of Optuna's float, int or categorical kind"
    )


def _check_value(field: Field, value: Any) -> None:
    """Whether the field takes the value."""
    check_value(field, value)
    if field.name == "subset":
        canonical_subset(value)
    elif field.name in CHOICES and field.name not in ("dataset", "backbone", "augment"):
        component(CHOICES[field.name], value)


def _ask(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)

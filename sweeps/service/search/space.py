"""Search space: Optuna distributions by field, and the one function that makes a TrialConfig of a suggestion.

A space is a plain mapping from a TrialConfig field to an Optuna distribution; "alpha_init/anchor" and "beta_init/fine"
name one logit of a list. A field is asked for only where it has an effect (a margin only with the triplet), so that
the sampler never learns from a parameter that did nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from laresa.config import SUBSETS, TERMS, WEIGHTINGS, TrialConfig
from laresa.errors import ConfigError, nearest
from sweeps.service.study import Space

LISTS = {"alpha_init": (*TERMS, "reg"), "beta_init": ("fine", "coarse")}
FIRST = ("subset", "group_reg", "weighting", "beta_learned")  # the others' effect hangs on these


def default_space() -> dict[str, BaseDistribution]:
    """Loss subset, margin, learning rate, alpha initial values, weighting: what LARESA leaves open."""
    space: dict[str, BaseDistribution] = {
        "subset": CategoricalDistribution(SUBSETS),
        "weighting": CategoricalDistribution(WEIGHTINGS),
        "lr": FloatDistribution(1e-4, 1e-2, log=True),
        "margin": FloatDistribution(0.05, 0.8),
    }
    return space | {f"alpha_init/{term}": FloatDistribution(-1.0, 3.0) for term in TERMS}


def check_space(space: Space, base: TrialConfig) -> None:
    """ConfigError for a field that does not exist, or a distribution whose values the field does not take."""
    fields = {field.name for field in dataclasses.fields(TrialConfig)}
    for name, distribution in space.items():
        field, _, part = name.partition("/")
        if field not in fields:
            raise ConfigError(f"space: unknown field {field!r}{nearest(field, fields)}")
        if field in ("seed", "fold", "exchange_splits", "dataset"):
            raise ConfigError(f"space: {field!r} is a replicate's, not a search dimension; use --seeds, --folds")
        if bool(part) != (field in LISTS) or (part and part not in LISTS[field]):
            known = [f"{field}/{part}" for part in LISTS.get(field, ())] or [field]
            raise ConfigError(f"space: {name!r}{nearest(name, known)}")
        for value in _extremes(distribution):
            _check_value(name, value, base)


def suggest(trial: optuna.Trial, space: Space, base: TrialConfig) -> TrialConfig:
    """A TrialConfig from `base` and what Optuna suggests for each field that has an effect."""
    ordered = sorted(space, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    config = base
    lists: dict[str, dict[str, float]] = {}
    for name in ordered:
        if not has_effect(name, config):
            continue
        value = _ask(trial, name, space[name])
        field, _, part = name.partition("/")
        if part:
            lists.setdefault(field, {})[part] = value
        else:
            config = config.replace(**{field: value})
    return _with_lists(config, lists)


def has_effect(name: str, config: TrialConfig) -> bool:
    """Whether a field (or one logit of a list) changes what `config` learns."""
    field, _, part = name.partition("/")
    if part:
        return getattr(config, field) is not None and part in _names(field, config)
    if field == "alpha_lr":
        return config.alpha_init is not None or bool(config.beta_learned)
    if field == "freeze_epoch":
        return config.alpha_init is not None
    optional = {f.name for f in dataclasses.fields(TrialConfig) if f.default is None}
    return (
        field not in optional
        or field in ("image_size", "input_size", "latent_dim")
        or getattr(config, field) is not None
    )


def as_params(config: TrialConfig, space: Space) -> dict[str, Any]:
    """The suggestion that would give `config`: to enqueue a known configuration, the paper's own first of all."""
    params: dict[str, Any] = {}
    for name in space:
        if not has_effect(name, config):
            continue
        field, _, part = name.partition("/")
        value = getattr(config, field)
        if field == "alpha_lr":
            value = value or config.lr
        params[name] = value[_names(field, config).index(part)] if part else value
    return params


def parse_distribution(name: str, text: str) -> BaseDistribution:
    """`--space` on the command line: "1e-4:1e-2:log", "16:128:int", "0:1" or "softmax,floor"."""
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return CategoricalDistribution([_literal(name, part) for part in text.split(",")])
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


def _literal(name: str, text: str) -> Any:
    from laresa.config import parse_field

    return parse_field(name.partition("/")[0], text)


def _extremes(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, (FloatDistribution, IntDistribution)):
        return distribution.low, distribution.high
    raise ConfigError(
        f"space: {type(distribution).__name__} is no distribution of Optuna's float, int or categorical kind"
    )


def _check_value(name: str, value: Any, base: TrialConfig) -> None:
    """Whether the field takes the value, in a configuration in which it has an effect."""
    field, _, part = name.partition("/")
    if part:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"space: {name}={value!r}: expected a number")
        return
    for weighting in ("softmax", "kl", "floor", "ce_outside", "fixed"):
        base.replace(subset=SUBSETS[-1], weighting=weighting).replace(**{field: value})


def _ask(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _names(field: str, config: TrialConfig) -> tuple[str, ...]:
    """What the entries of a list field stand for, in order."""
    if field == "beta_init":
        return LISTS["beta_init"]
    return tuple(term for term in config.terms if not (term == "ce" and config.weighting == "ce_outside"))


def _with_lists(config: TrialConfig, lists: Mapping[str, Mapping[str, float]]) -> TrialConfig:
    for field, parts in lists.items():
        current = getattr(config, field)
        values = [parts.get(part, now) for part, now in zip(_names(field, config), current, strict=True)]
        config = config.replace(**{field: values})
    return config

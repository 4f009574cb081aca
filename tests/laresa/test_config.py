"""TrialConfig: checks, effect, signature."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laresa.config import PARTS, SUBSETS, WEIGHTINGS, TrialConfig, canonical_subset, parse_field, subset_terms
from laresa.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0}, r"lr=0.0: expected a number > 0"),
        ({"lr": float("nan")}, r"lr=nan: expected a finite number"),
        ({"lr": "fast"}, r"lr='fast' is str: expected float"),
        ({"margin": -0.1}, r"margin=-0.1: expected a number >= 0"),
        ({"epochs": 1.5}, r"epochs=1.5 is float: expected int"),
        ({"pretrained": 1}, r"pretrained=1 is int: expected bool"),
        ({"alpha_init": [1, 2]}, r"alpha_init=\(1.0, 2.0\) has 2 numbers: expected 5, for ce, anchor, triplet"),
        ({"weighting": "sofmax"}, r"unknown weighting 'sofmax'; did you mean 'softmax'\?"),
        ({"subset": "ce+ancor"}, r"unknown loss 'ancor' in subset 'ce\+ancor'; did you mean 'anchor'\?"),
        ({"subset": "anchor"}, r"no 'ce'"),
        ({"subset": "ce+ce"}, r"names a loss twice"),
        ({"augment": "crop+fliip"}, r"did you mean 'flip'"),
        ({"weighting": "fixed", "fixed_weights": [0, 0, 0, 0, 0]}, r"not all zero"),
        ({"weighting": "kl", "fixed_weights": [0, 1, 1, 1, 1]}, r"every weight > 0"),
        ({"seed": None}, r"seed=None: expected int"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        TrialConfig(**fields)


def test_unknown_field_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown field 'batchsize'.*did you mean 'batch_size'"):
        TrialConfig.from_dict({"batchsize": 3})


def test_fields_without_effect_become_none_and_share_a_signature():
    plain = TrialConfig(subset="ce")
    dressed = TrialConfig(subset="ce", margin=0.7, weighting="kl", alpha_init=None, shuffle_labels=True, kl_tau=3.0)
    assert plain == dressed
    assert plain.signature() == dressed.signature()
    assert TrialConfig(subset="ce+anchor", margin=0.7).margin is None
    assert TrialConfig(subset="ce+anchor", alpha_lr=1e-3) == TrialConfig(subset="ce+anchor")


def test_replace_brings_defaults_back_and_resizes_equal_logits():
    full = TrialConfig(lr=1e-3)
    assert full.replace(subset="ce").replace(subset="ce+triplet").margin == 0.2
    assert full.replace(subset="ce+anchor").alpha_init == (1.0, 1.0)
    assert full.replace(lr=0.5).alpha_lr is None
    with pytest.raises(ConfigError, match="has 5 numbers: expected 2"):
        TrialConfig(alpha_init=(5, 1, 1, 1, 1)).replace(subset="ce+anchor")


def test_terms_of_the_paper_and_of_equation_3():
    assert subset_terms("ce+anchor+triplet+reg") == ("ce", "anchor", "triplet", "center", "variance")
    assert subset_terms("reg+ce", group_reg=True) == ("ce", "reg")
    assert TrialConfig(weighting="ce_outside").alpha_init == (1.0,) * 4
    assert canonical_subset("variance+ce+center") == "ce+reg"
    assert len(set(SUBSETS)) == 8


def test_exchanged_splits_are_absent_unless_asked_for():
    plain, exchanged = TrialConfig(exchange_splits=False), TrialConfig(exchange_splits=True)
    assert plain == TrialConfig()
    assert "exchange_splits" not in plain.to_dict()
    assert exchanged.signature() != plain.signature()
    assert TrialConfig.from_dict(exchanged.to_dict()) == exchanged
    assert exchanged.replace(exchange_splits=None).signature() == plain.signature()


def test_signature_is_stable_and_ignores_only_what_is_asked():
    config = TrialConfig(subset="ce")
    assert config.signature() == "be148fde4898"  # a change here orphans every finished trial: CHANGELOG.md
    assert config.signature() != config.replace(seed=7).signature()
    assert config.signature(ignore=["seed"]) == config.replace(seed=7).signature(ignore=["seed"])


@given(
    subset=st.sets(st.sampled_from(PARTS[1:4])).map(lambda parts: "+".join(["ce", *sorted(parts)])),
    weighting=st.sampled_from(WEIGHTINGS),
    lr=st.floats(1e-9, 10),
    seed=st.integers(0, 2**31),
)
def test_json_round_trip(subset, weighting, lr, seed):
    config = TrialConfig(subset=subset, weighting=weighting, lr=lr, seed=seed)
    again = TrialConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.signature() == config.signature()
    assert config.replace() == config


def test_parse_field():
    assert parse_field("lr", "0.1") == 0.1
    assert parse_field("alpha_init", "[1, 2]") == [1, 2]
    assert parse_field("subset", "ce+reg") == "ce+reg"
    with pytest.raises(ConfigError, match=r"in --set marginn=1; did you mean 'margin'"):
        parse_field("marginn", "1")

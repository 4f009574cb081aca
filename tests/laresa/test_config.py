"""TrialConfig: what is given stays, defaults are resolved once, errors name the value; signatures, records, text."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laresa.config import (
    RENAMED,
    SUBSETS,
    TrialConfig,
    all_fields,
    core_fields,
    full_name,
    parse_text,
    write_text,
)
from laresa.errors import ConfigError
from laresa.plugins import table

few = settings(max_examples=60)


# ---------------------------------------------------------------------- what is wrong
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0}, r"lr=0: expected greater than 0"),
        ({"lr": float("nan")}, r"lr=nan: expected a finite number"),
        ({"lr": float("inf")}, r"lr=inf: expected a finite number"),
        ({"epochs": float("nan")}, r"epochs=nan: expected a valid integer"),
        ({"epochs": float("inf")}, r"epochs=inf: expected a valid integer"),
        ({"epochs": True}, r"epochs=True: expected a valid integer"),
        ({"lr": True}, r"lr=True: expected a valid number"),
        ({"lr": "fast"}, r"lr='fast': expected a valid number"),
        ({"lr": "0.1"}, r"lr='0.1': expected a valid number"),
        ({"lr": object}, r"lr=<class 'object'>: expected float"),
        ({"epochs": 1.5}, r"epochs=1.5: expected a valid integer"),
        ({"epochs": np.int64(3)}, r"epochs=.*3.*: expected int.*, not int64"),
        ({"pretrained": 1}, r"pretrained=1: expected a valid boolean"),
        ({"dataset": 3}, r"dataset=3: expected a valid string"),
        ({"precision": "fp64"}, r"precision='fp64': expected 'fp32' or 'bf16'"),
        ({"seed": None}, r"seed=None: expected a valid integer"),
        ({"margin": -0.1}, r"triplet.margin=-0.1: expected greater than or equal to 0"),
        ({"margin": None}, r"margin=None: expected float"),
        ({"anchor.beta": []}, r"anchor.beta=\[\] has 0 numbers: expected one at least"),
        ({"anchor.beta": "leaf"}, r"anchor.beta='leaf': expected "),
        ({"anchor.beta": [1, float("nan")]}, r"anchor.beta=\[1, nan\]: expected a finite number"),
        ({"anchor.beta.2": 1.0}, r"unknown field 'anchor.beta.2'"),
        ({"alpha_init": 1.0}, r"alpha_init=1.0: expected a list of numbers, one a term, or alpha_init.TERM=NUMBER"),
        ({"alpha_init": [1, "x"]}, r"alpha_init='x': expected a valid number"),
        ({"fixed.weights": [1, -1]}, r"fixed.weights=-1: expected greater than or equal to 0"),
        ({"fixed.weights.ce": -1}, r"fixed.weights.ce=-1: expected greater than or equal to 0"),
        ({"kl.prior.anchor": 0}, r"kl.prior.anchor=0: expected greater than 0"),
        ({"batchsize": 3}, r"unknown field 'batchsize' of TrialConfig; did you mean 'batch_size'"),
        ({"beta": 3.0}, r"field 'beta' is ambiguous: soft_label.beta, anchor.beta"),
        ({"margin": 0.1, "triplet.margin": 0.1}, r"'triplet.margin' and 'margin' are the same field: give one"),
    ],
)
def test_a_bad_field_is_named_at_once(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrialConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha_init": [1, 2]}, r"alpha_init=\[1.0, 2.0\] has 2 numbers: expected 5, for ce, anchor, triplet, center"),
        ({"weighting": "sofmax"}, r"unknown weighting 'sofmax'; did you mean 'softmax'\?"),
        ({"subset": "ce+ancor"}, r"unknown term 'ancor'; did you mean 'anchor'\?"),
        ({"subset": "anchor"}, r"no base term: expected exactly one of ce, hace, hxe, soft_label"),
        ({"subset": "ce+hxe"}, r"2 base terms \(ce, hxe\)"),
        ({"subset": "ce+ce"}, r"names a loss twice"),
        ({"subset": "ce+reg+center"}, r"names a loss twice; 'reg' already means center and variance"),
        ({"augment": "crop+fliip"}, r"unknown augmentation 'fliip'; did you mean 'flip'"),
        ({"augment": "crop+crop"}, r"names an augmentation twice"),
        ({"optimizer": "adma"}, r"unknown optimizer 'adma'; did you mean 'adam'"),
        ({"schedule": "cosin"}, r"unknown lr schedule 'cosin'; did you mean 'cosine'"),
        ({"method": "endtoend"}, r"unknown method 'endtoend'; did you mean 'end_to_end'"),
        ({"weighting": "fixed", "fixed.weights": [0] * 5}, r"fixed.weights=\[0.0, 0.0.*\]: expected one above 0"),
    ],
)
def test_what_does_not_fit_together_is_named_when_it_is_resolved(fields: dict[str, Any], message: str) -> None:
    config = TrialConfig(**fields)
    with pytest.raises(ConfigError, match=message):
        _ = config.resolved


@pytest.mark.parametrize("old", RENAMED)
def test_a_former_name_is_refused_with_the_new_one(old: str) -> None:
    with pytest.raises(
        ConfigError, match=f"field '{old}' is called {RENAMED[old]} now".replace("(", r"\(").replace(")", r"\)")
    ):
        TrialConfig(**{old: 1})
    for new in RENAMED[old].replace("(or ", "").replace(")", "").split():
        assert full_name(new) == new


def test_short_names_where_one_component_has_the_field() -> None:
    assert full_name("margin") == "triplet.margin"
    assert TrialConfig(margin=0.5) == TrialConfig(**{"triplet.margin": 0.5})
    assert TrialConfig(margin=0.5)["margin"] == TrialConfig(margin=0.5)["triplet.margin"] == 0.5
    with pytest.raises(ConfigError, match="'margin' has no effect"):
        TrialConfig(subset="ce", margin=0.5)["margin"]
    with pytest.raises(AttributeError, match="no field 'marginn'"):
        _ = TrialConfig().marginn


# ---------------------------------------------------------------------- given and resolved
def values() -> st.SearchStrategy[dict[str, Any]]:
    """Random fields that go together, with lists and entries."""
    extras = st.sets(st.sampled_from(("anchor", "triplet", "center", "variance"))).map(sorted)
    subsets = st.tuples(st.sampled_from(("ce", "hace", "hxe", "soft_label")), extras).map(lambda t: [t[0], *t[1]])
    number = st.floats(-5, 5)

    def more(parts: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        whole = len("+".join(parts).split("+"))
        return st.fixed_dictionaries(
            {"subset": st.permutations(parts).map("+".join)},
            optional={
                "lr": st.floats(1e-9, 10),
                "seed": st.integers(0, 2**63 - 1),
                "weighting": st.sampled_from([name for name in table("WEIGHTINGS") if name != "base_outside"]),
                "alpha_init": st.lists(number, min_size=whole, max_size=whole),
                "fixed.weights.ce": st.floats(0.1, 5),
                "kl.tau": st.floats(0, 5),
                "anchor.beta": st.lists(number, min_size=2, max_size=2),
                "anchor.beta.0": number,
                "anchor.beta_learned": st.booleans(),
                "triplet.negatives": st.sampled_from(("uniform", "nearest", "semi_hard")),
                "hace.dilution": st.floats(0.1, 1),
                "schedule": st.sampled_from(("none", "cosine")),
                "momentum": st.floats(0, 0.9),
                "optimizer": st.sampled_from(("adam", "sgd")),
                "augment": st.sampled_from(("none", "flip", "flip+crop")),
                "image_size": st.none() | st.integers(1, 64),
                "freeze_alpha": st.none() | st.just("plateau") | st.integers(1, 9),
                "dataset": st.sampled_from(("emoji120", "some/folder", "a.b")),
            },
        )

    return subsets.flatmap(more)


@few
@given(values())
def test_nothing_is_lost_and_equal_learning_is_equal(fields: dict[str, Any]) -> None:
    config = TrialConfig(**fields)
    again = config.replace()
    assert again == config
    assert again.given == config.given
    plain = json.loads(json.dumps(config.to_dict()))
    for other in (
        TrialConfig(**config.to_dict()),
        TrialConfig.from_dict(plain),
        TrialConfig.from_record(plain).checked(),
    ):
        assert other == config
        assert other.signature() == config.signature()
        assert hash(other) == hash(config)
    assert TrialConfig.from_record(plain) == config
    assert TrialConfig.from_record(plain).signature() == config.signature()
    texts = {name: write_text(value) for name, value in config.resolved.items()}
    assert TrialConfig(**{name: parse_text(text) for name, text in texts.items()}) == config


def test_what_was_given_stays_as_given_under_another_subset() -> None:
    """Row 26 of the defects: the weights became other numbers, and a list for a later subset was refused."""
    weights = TrialConfig(weighting="fixed", **{"fixed.weights": [1, 1, 1]})
    arm = weights.replace(subset="ce+anchor+triplet")
    assert arm.values("fixed") == {"weights.ce": 1.0, "weights.anchor": 1.0, "weights.triplet": 1.0}
    assert arm.given == {"weighting": "fixed", "fixed.weights": (1.0, 1.0, 1.0), "subset": "ce+anchor+triplet"}
    with pytest.raises(ConfigError, match="has 3 numbers: expected 2"):
        _ = arm.replace(subset="ce+anchor").resolved
    assert TrialConfig(alpha_init=[2, 1, 1]).replace(subset="ce+anchor+triplet").alpha_init == (2.0, 1.0, 1.0)
    named = TrialConfig(**{"alpha_init.ce": 4.0})
    assert named.replace(subset="ce+anchor").alpha_init == (4.0, 1.0)
    assert named.alpha_init == (4.0, 1.0, 1.0, 1.0, 1.0)


def test_the_last_word_counts() -> None:
    record = TrialConfig.from_record(TrialConfig(subset="ce+anchor", **{"alpha_init.ce": 4.0}).to_dict())
    assert record.replace(alpha_init=[2, 3]).alpha_init == (2.0, 3.0)
    assert record.replace(**{"alpha_init.anchor": 7.0}).alpha_init == (4.0, 7.0)
    beta = TrialConfig(**{"anchor.beta.1": 5.0})
    assert beta["anchor.beta"] == (1.0, 5.0)
    assert beta.replace(**{"anchor.beta": [2, 3]})["anchor.beta"] == (2.0, 3.0)
    assert TrialConfig(**{"anchor.beta": [2, 3], "anchor.beta.0": 9})["anchor.beta"] == (9.0, 3.0)


def test_defaults_follow_what_is_chosen() -> None:
    full = TrialConfig(lr=1e-3)
    assert full.replace(subset="ce").replace(subset="ce+triplet")["margin"] == 0.2
    assert full.replace(subset="ce+anchor").alpha_init == (1.0, 1.0)
    assert TrialConfig(weighting="base_outside").alpha_init == (1.0,) * 4
    assert TrialConfig(weighting="fixed").alpha_init == ()
    assert TrialConfig(weighting="fixed", subset="ce+anchor").values("fixed") == {
        "weights.ce": 0.5,
        "weights.anchor": 0.5,
    }
    assert TrialConfig(group_weights=True).terms == ("ce", "anchor", "triplet", "reg")
    assert TrialConfig(group_weights=True).parts == ("ce", "anchor", "triplet", "center", "variance")
    assert TrialConfig(subset="variance+ce+center").subset == "ce+reg"
    assert len({TrialConfig(subset=subset).signature() for subset in SUBSETS}) == 8


@pytest.mark.parametrize(
    ("base", "without", "with_effect"),
    [
        ({"subset": "ce"}, {"margin": 0.7}, {"patience": 3}),
        ({"subset": "ce"}, {"weighting": "kl", "kl.tau": 3.0, "shuffle_labels": True, "alpha_lr": 0.5}, {"lr": 0.5}),
        ({"subset": "ce"}, {"freeze_alpha": 3, "freeze_beta": "plateau", "group_weights": True}, {"seed": 3}),
        ({"subset": "ce+anchor"}, {"margin": 0.7, "group_weights": True}, {"anchor.beta": [2, 1]}),
        ({"subset": "ce+anchor"}, {"alpha_lr": 1e-3}, {"alpha_lr": 2e-3}),
        ({"subset": "ce+anchor"}, {"fixed.weights": [1, 2], "alpha_init": [1, 1]}, {"alpha_init.ce": 2}),
        ({"subset": "ce+reg"}, {"shuffle_labels": True}, {"group_weights": True}),
        ({"subset": "ce+triplet"}, {"anchor.beta": [3, 1], "hace.dilution": 0.3}, {"negatives": "nearest"}),
        ({"subset": "hace"}, {"hxe.alpha": 0.3}, {"dilution": 0.3}),
        ({"weighting": "fixed"}, {"alpha_init": [1, 2]}, {"fixed.weights.ce": 2}),
        ({"optimizer": "adam"}, {"momentum": 0.5}, {"optimizer": "sgd"}),
        ({}, {"exchange_splits": False, "image_size": None}, {"exchange_splits": True}),
        ({}, {"train_fraction": 1.0, "shots": None}, {"train_fraction": 0.5}),
        ({"train_fraction": 1}, {"stem": "default", "dropout": 0.0}, {"shots": 5}),
        ({}, {"corruptions": "none"}, {"corruptions": "all"}),
        ({"schedule": "cosine"}, {"warmup_cosine.warmup": 0.3}, {"stem": "cifar"}),
        ({"schedule": "warmup_cosine"}, {"momentum": 0.5}, {"warmup": 0.3}),
    ],
)
def test_a_field_without_effect_changes_no_signature_and_one_with_effect_does(
    base: dict[str, Any], without: dict[str, Any], with_effect: dict[str, Any]
) -> None:
    plain = TrialConfig(**base)
    assert plain.replace(**without) == plain
    assert plain.replace(**without).signature() == plain.signature()
    assert plain.replace(**with_effect).signature() != plain.signature()


def test_the_signature_is_pinned_and_ignores_only_what_is_asked() -> None:
    config = TrialConfig(subset="ce")
    assert config.signature() == "57bcbb1295dc"  # a change here orphans every finished trial: CHANGELOG.md
    assert config.signature() != config.replace(seed=7).signature()
    assert config.signature(ignore=["seed"]) == config.replace(seed=7).signature(ignore=["seed"])


def test_every_field_says_what_it_is_and_takes_its_own_default() -> None:
    for name, field in all_fields().items():
        if field.kind == "value" and name in core_fields():
            assert field.doc, name
        if field.kind == "value":
            TrialConfig(**{name: field.default})


# ---------------------------------------------------------------------- records and text
OLD = {"subset": "ce+anchor", "beta_init": [1.0, 1.0], "group_reg": False, "margin": None, "lr": 0.001}


def test_records_are_read_without_torch() -> None:
    script = (
        "import sys, json; from laresa.config import TrialConfig, parse_text\n"
        f"for fields in ({TrialConfig().to_dict()!r}, {OLD!r}):\n"
        "    config = TrialConfig.from_record(fields)\n"
        "    assert config.to_dict() == fields, config\n"
        "    print(config.subset, config['lr'], config.signature(), config == TrialConfig.from_record(fields))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{TrialConfig().subset} 0.001 {TrialConfig().signature()} True"


def test_a_record_of_the_first_version_is_refused_where_it_is_to_be_used() -> None:
    record = TrialConfig.from_record(OLD)
    assert record.lr == 0.001
    assert record["beta_init"] == (1.0, 1.0)
    for use in (record.checked, record.replace, lambda: record.replace(lr=0.1)):
        with pytest.raises(ConfigError, match=r"'beta_init' is called anchor.beta now"):
            use()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(json_values)
def test_text_is_read_back(value: Any) -> None:
    text = write_text(value)
    assert parse_text(text) == value
    assert type(parse_text(text)) is type(value)

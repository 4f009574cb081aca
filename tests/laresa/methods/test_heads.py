"""Heads trained together against the same heads alone: equal to the bit on a CPU, whoever shares the stack."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from laresa import plugins
from laresa.config import TrialConfig
from laresa.data import Dataset
from laresa.errors import CheckpointError, ConfigError, NonFiniteLossError
from laresa.features import Features
from laresa.methods import Result
from laresa.methods.heads import Heads
from laresa.methods.heads.stack import stack_key
from laresa.seeds import generator
from tests.laresa.methods.conftest import BASE

FULL = BASE.replace(subset="ce+anchor+triplet+reg")
CPU = torch.device("cpu")
# One of each family, with the ways in which heads of a stack may differ.
FAMILIES = {
    "ce": [BASE, BASE.replace(seed=1, lr=0.01), BASE.replace(seed=2, weight_decay=0.1, optimizer="adamw")],
    "full": [
        FULL,
        FULL.replace(seed=1, lr=0.003, alpha_init=[1, 2, 0.5, 0.1, 0.1], **{"triplet.margin": 0.5}),
        FULL.replace(seed=2, epochs=2, alpha_lr=0.02),
        FULL.replace(seed=3, freeze_alpha=2, freeze_beta=3),
    ],
    "weightings": [
        FULL.replace(weighting="uncertainty"),
        FULL.replace(weighting="kl", **{"kl.tau": 2.0}),
        FULL.replace(weighting="kl", seed=1, **{"kl.tau": 0.5}),
        FULL.replace(weighting="normalised", freeze_alpha=2),
        FULL.replace(weighting="normalised", seed=4),
        FULL.replace(weighting="base_outside"),
        FULL.replace(weighting="floor"),
    ],
    "labels": [
        FULL.replace(shuffle_labels=True),
        FULL.replace(shuffle_labels=True, seed=5),
        FULL.replace(label_noise=0.6, seed=2),
        FULL.replace(coarse_noise=1.0, seed=2),
        FULL.replace(random_labels=True, seed=2),
        FULL.replace(prompt="a photo of a {}"),
        BASE.replace(subset="ce+triplet", **{"triplet.negatives": "semi_hard"}),
        BASE.replace(subset="ce+triplet", seed=1, **{"triplet.negatives": "nearest"}),
    ],
    "tree": [
        BASE.replace(subset="hace"),
        BASE.replace(subset="hace", seed=1, **{"hace.dilution": 0.4, "hace.smoothing": 0.1}),
        BASE.replace(subset="hace", seed=2, **{"hace.soft_beta": 5.0, "hace.prediction": "leaf"}),
        BASE.replace(subset="hxe"),
        BASE.replace(subset="soft_label"),
        BASE.replace(subset="label_smoothing"),
        BASE.replace(subset="hierarchical_softmax"),
        BASE.replace(subset="hace+anchor"),
    ],
    "neighbours": [BASE.replace(subset=f"ce+{term}") for term in ("cpcc", "tree_anchor", "devise")],
    "linear": [BASE.replace(**{"heads.head": "linear"}), BASE.replace(subset="hace", **{"heads.head": "linear"})],
    "corrupted": [
        FULL.replace(corruptions="all"),
        BASE.replace(corruptions="all", seed=1),
        BASE.replace(corruptions="all", subset="hace", **{"heads.head": "linear"}),
    ],
    "sgd": [BASE.replace(optimizer="sgd", lr=0.1, schedule="cosine"), BASE.replace(optimizer="sgd", lr=0.3, seed=1)],
}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Equal threads, equal bits."""


def heads(configs: Sequence[TrialConfig], data: Dataset, features: Features, at_once: int = 64) -> Heads:
    return Heads(configs, data, CPU, at_once, features=features)


def results(group: Heads, stopped: dict[int, int] | None = None) -> dict[int, Result]:
    """By index, each taken as soon as its head is done. stopped: index -> epochs after which it is given up."""
    found: dict[int, Result] = {}
    taken = set[int]()
    while not all(group.done):
        group.epoch()
        for index, done in enumerate(group.done):
            if not done and stopped and len(group.histories[index]) == stopped.get(index):
                group.stop(index)
            elif done and index not in taken and index not in group.failures and index not in (stopped or ()):
                found[index] = group.result(index)
                taken.add(index)
    return found


def numbers(result: Result) -> dict[str, Any]:
    """All that training decides: no clock's time."""
    metrics = {name: value for name, value in result.metrics.items() if not name.startswith("seconds/")}
    history = [[(name, repr(value)) for name, value in sorted(m.metrics.items())] for m in result.history]
    weights = {name: value.numpy().tobytes() for name, value in sorted(result.weights.items())}
    return {"metrics": {n: repr(v) for n, v in metrics.items()}, "history": history, "weights": weights}


def assert_equal(found: Result, expected: Result) -> None:
    for part, value in numbers(expected).items():
        assert numbers(found)[part] == value, f"{expected.config.subset}, {expected.config.weighting}: {part}"


@pytest.fixture(scope="module")
def alone(data: Dataset, features: Features) -> Iterator[Any]:
    kept: dict[TrialConfig, Result] = {}

    def result(config: TrialConfig) -> Result:
        if config not in kept:
            (kept[config],) = results(heads([config], data, features)).values()
        return kept[config]

    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_together_as_alone(family: str, data: Dataset, features: Features, alone: Any):
    configs = FAMILIES[family]
    found = results(heads(configs, data, features))
    for index, config in enumerate(configs):
        assert_equal(found[index], alone(config))
        assert found[index].latents is None


def test_everybody_together_few_at_once_and_refilled(data: Dataset, features: Features, alone: Any):
    """Heads of all families in one group, three places: places are refilled, stacks change all the time."""
    configs = [family[0] for family in FAMILIES.values()] + [FAMILIES["full"][2]]
    found = results(heads(configs, data, features, at_once=3))
    for index, config in enumerate(configs):
        assert_equal(found[index], alone(config))


def test_early_stopped_pruned_and_failed_heads_touch_nobody(data: Dataset, features: Features, alone: Any):
    patient = BASE.replace(lr=1e-9, patience=1)  # its second epoch is no better
    broken = FULL.replace(lr=1e30, seed=9)
    configs = [FAMILIES["full"][0], patient, broken, FAMILIES["full"][1], BASE.replace(seed=8), FAMILIES["ce"][1]]
    group = heads(configs, data, features, at_once=4)
    found = results(group, stopped={4: 1})
    assert [len(history) for history in group.histories] == [3, 2, len(group.histories[2]), 3, 1, 3]
    assert set(group.failures) == {2}
    assert isinstance(group.failures[2], NonFiniteLossError)
    assert "ce" in str(group.failures[2])
    assert sorted(found) == [0, 1, 3, 5]
    for index in (0, 3, 5):
        assert_equal(found[index], alone(configs[index]))
    assert found[1].best_epoch == 1


def test_resumed_in_another_composition_to_the_bit(data: Dataset, features: Features, alone: Any, tmp_path: Path):
    configs = [FAMILIES["full"][0], FAMILIES["full"][1], FAMILIES["tree"][1], FAMILIES["weightings"][3]]
    first = heads(configs, data, features, at_once=2)  # two have begun, two wait
    first.epoch()
    first.epoch()
    first.save(tmp_path / "first")
    other = heads(configs[2:], data, features)
    other.epoch()
    other.save(tmp_path / "other")
    mixed = heads([configs[3], BASE.replace(seed=7), *configs[:3]], data, features, at_once=3)
    mixed.restore(tmp_path / "first", [2, 3])
    mixed.restore(tmp_path / "other", [0, 4])
    assert [len(history) for history in mixed.histories] == [1, 0, 2, 2, 1]
    mixed.save(tmp_path / "mixed")  # with one that waits for its place, and has begun
    again = heads([configs[3], *configs[:3]], data, features)
    again.restore(tmp_path / "mixed", range(4))
    for group, order in ((mixed, [3, None, 0, 1, 2]), (again, [3, 0, 1, 2])):
        found = results(group)
        for index, place in enumerate(order):
            assert_equal(found[index], alone(configs[place] if place is not None else BASE.replace(seed=7)))


def test_one_that_had_ended_ends_again_without_an_epoch(data: Dataset, features: Features, tmp_path: Path, alone: Any):
    short = FAMILIES["full"][2]  # two epochs
    group = heads([short, FULL], data, features)
    group.epoch()
    group.epoch()
    assert list(group.done) == [True, False]
    group.save(tmp_path / "kept")
    again = heads([short, FULL], data, features)
    again.restore(tmp_path / "kept", [0, 1])
    assert list(again.done) == [True, False]
    assert_equal(again.result(0), alone(short))


def test_a_checkpoint_of_other_data_or_features_is_refused(data: Dataset, features: Features, tmp_path: Path):
    group = heads([BASE], data, features)
    group.epoch()
    group.save(tmp_path / "kept")
    other = Features(features.train_NF, features.val_NF, features.test_NF, key="other", weights="none")
    with pytest.raises(CheckpointError, match="has features 'random': this group has 'other'"):
        heads([BASE], data, other).restore(tmp_path / "kept", [0])


def test_features_of_other_images_are_refused(data: Dataset, features: Features):
    short = Features(features.train_NF[1:], features.val_NF, features.test_NF, key="short", weights="none")
    with pytest.raises(ConfigError, match=r"have \d+ rows for the train part of emoji120: expected \d+, one an image"):
        heads([BASE], data, short)


def test_what_a_head_can_t_be_trained_with(data: Dataset, features: Features):
    linear = FULL.replace(**{"heads.head": "linear"})
    with pytest.raises(ConfigError, match=r"head=linear with subset .* needs a latent to act on"):
        heads([linear], data, features).epoch()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("layers", ["latent", "linear"])
def test_a_head_learns_what_a_plain_loop_learns(optimizer: str, layers: str, data: Dataset, features: Features):
    """The same layers, order and optimiser in a loop of torch's own; and far above chance."""
    config = BASE.replace(optimizer=optimizer, lr=0.01, weight_decay=1e-3, **{"heads.head": layers})
    group = heads([config], data, features)
    group._refill()
    model = copy.deepcopy(group._heads[0].model)
    (result,) = results(group).values()
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    more = config.values("sgd") if optimizer == "sgd" else {}
    plain = kinds[optimizer](model.parameters(), lr=config.lr, weight_decay=config.weight_decay, **more)
    found = []
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(data.train), generator=generator("cpu", config.seed, epoch, "order"))
        for index in order.tensor_split(-(-len(order) // config.batch_size)):
            loss = cross_entropy(model(features.train_NF[index])[0], data.train.labels[index])
            plain.zero_grad()
            loss.backward()
            plain.step()
        with torch.no_grad():
            found.append(cross_entropy(model(features.val_NF)[0], data.val.labels).item())
    assert [m.metrics["val/loss"] for m in result.history] == pytest.approx(found, rel=1e-3)
    assert found[-1] < found[0]


def test_a_term_that_can_t_be_mapped_is_looped(data: Dataset, features: Features, tmp_path: Path):
    """One that looks at its values: a group all the same, one head after another."""
    path = tmp_path / "looks.py"
    path.write_text(
        "def looks(batch, *, scale: float = 1.0):\n"
        "    return batch.z_ND.square().mean(1) * (scale if float(batch.z_ND.sum()) > 0 else 2 * scale)\n"
        'TERMS = {"looks": looks}\n'
    )
    with plugins.isolated():
        plugins.load(str(path))
        configs = [BASE.replace(subset="ce+looks", seed=seed, **{"looks.scale": 0.5 + seed}) for seed in range(2)]
        found = results(heads(configs, data, features))
        for index, config in enumerate(configs):
            (expected,) = results(heads([config], data, features)).values()
            assert_equal(found[index], expected)


def test_corrupted_images_are_measured_by_the_best_weights(data: Dataset, features: Features, alone: Any):
    """What is measured by hand of one kind; nothing else about the trial differs from the same one without."""
    config = FULL.replace(corruptions="all", **{"heads.latents": True})
    asked, plain = alone(config), alone(config.replace(corruptions="none"))
    z_ND = features.corrupted["blur", 4] @ asked.weights["latent.weight"].T + asked.weights["latent.bias"]
    logits_NC = z_ND @ asked.weights["classifier.weight"].T + asked.weights["classifier.bias"]
    hits = (logits_NC.argmax(1) == data.test.labels).double().mean().item()
    assert asked.metrics["corrupted/blur_4"] == pytest.approx(hits)
    corrupted = [value for name, value in asked.metrics.items() if name.startswith("corrupted/")]
    assert len(corrupted) == 25
    assert asked.metrics["test/top1_corrupted"] == pytest.approx(sum(corrupted) / 25)
    assert asked.metrics.keys() - plain.metrics.keys() == {n for n in asked.metrics if "corrupted" in n}
    assert numbers(asked)["weights"] == numbers(plain)["weights"]
    assert Heads.group_key(asked.config) != Heads.group_key(plain.config)


def test_stacks_part_by_terms_shapes_and_zeros():
    same = [FULL, FULL.replace(seed=1, lr=0.1, **{"triplet.margin": 0.5}), FULL.replace(epochs=9, weight_decay=0.1)]
    others = [
        FULL.replace(subset="ce+anchor"),
        FULL.replace(weighting="uncertainty"),
        FULL.replace(latent_dim=64),
        FULL.replace(shuffle_labels=True),
        FULL.replace(**{"triplet.margin": 0.0}),
        FULL.replace(**{"triplet.negatives": "nearest"}),
    ]
    assert len({stack_key(config) for config in same}) == 1
    assert len({stack_key(config) for config in (FULL, *others)}) == 1 + len(others)


def test_latents_are_kept_when_asked_for_and_best_weights_are_measured(data: Dataset, features: Features):
    config = BASE.replace(epochs=2, **{"heads.latents": True})
    (result,) = results(heads([config], data, features)).values()
    assert result.latents is not None
    assert result.latents["z_ND"].shape == (len(data.test), 384)
    logits = torch.as_tensor(result.latents["z_ND"]) @ result.weights["classifier.weight"].T
    logits = logits + result.weights["classifier.bias"]
    hits = (logits.argmax(1) == data.test.labels).double().mean().item()
    assert math.isclose(hits, result.metrics["test/top1"])

"""Texts that are another's: shares exact, nested, by the seed; what is measured stays true."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laresa import labels
from laresa.config import SUBSETS, TrialConfig
from laresa.controls import Control, control_of
from laresa.data import Dataset
from laresa.errors import ConfigError, DataError, LatentWidthError
from laresa.label_noise import corrupted, random_rows, sources
from laresa.methods.end_to_end import EndToEnd
from laresa.methods.heads.stack import stack_key
from laresa.taxonomy import Taxonomy

FULL = SUBSETS[-1]
DEEP = Taxonomy.from_paths(
    {"owl": ("bird", "animal"), "duck": ("bird", "animal"), "cat": ("pet", "animal"), "saw": ("tool",)}
)


@st.composite
def trees(draw: st.DrawFn) -> Taxonomy:
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=6))
    return Taxonomy.from_groups({f"g{k}": [f"g{k}c{i}" for i in range(size)] for k, size in enumerate(sizes)})


seeds, shares = st.integers(0, 2**63 - 1), st.floats(0.0, 1.0)


@given(trees(), seeds, shares)
def test_label_noise_deranges_exactly_its_share_and_moves_all_levels(tree: Taxonomy, seed: int, share: float) -> None:
    count = round(share * tree.leaves)
    control = Control(seed, noise=share)
    if not share:
        return
    if count < 2:
        with pytest.raises(DataError, match=f"of {tree.leaves} classes is {count}: expected a share of two"):
            sources(tree, control)
        return
    own_C, above_C = sources(tree, control)
    assert sorted(own_C.tolist()) == list(range(tree.leaves))
    assert int((own_C != torch.arange(tree.leaves)).sum()) == count
    assert torch.equal(own_C, above_C)
    assert torch.equal(own_C, sources(tree, control)[0])


@given(st.integers(1, 60), seeds, shares, shares)
def test_corrupted_classes_are_nested_in_the_share(count: int, seed: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    few, many = (corrupted(count, share, seed, "label noise").tolist() for share in (low, high))
    assert many[: len(few)] == few
    assert (len(few), len(many)) == (round(low * count), round(high * count))


@given(trees(), seeds, st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_coarse_noise_gives_its_share_a_wrong_group_s_text_and_the_same_at_a_greater_share(
    tree: Taxonomy, seed: int, one: float, other: float
) -> None:
    found = {}
    parent_C = torch.from_numpy(tree.parent_C)
    for share in sorted((one, other)):
        count = round(share * tree.leaves)
        if not count:
            with pytest.raises(DataError, match="classes is none"):
                sources(tree, Control(seed, coarse_noise=share))
            return
        own_C, above_C = sources(tree, Control(seed, coarse_noise=share))
        assert torch.equal(own_C, torch.arange(tree.leaves))
        wrong_C = parent_C[above_C] != parent_C
        assert int(wrong_C.sum()) == count
        found[share] = wrong_C, parent_C[above_C]
    (few_C, low_C), (many_C, high_C) = (found[share] for share in (min(found), max(found)))
    assert many_C[few_C].all()
    assert torch.equal(low_C[few_C], high_C[few_C])


def test_all_noise_is_the_shuffled_control_in_distribution() -> None:
    tree = Taxonomy.from_groups({"a": ["x", "y"], "b": ["z"]})
    drawn = [tuple(sources(tree, Control(seed, noise=1.0))[0].tolist()) for seed in range(400)]
    assert set(drawn) == {(1, 2, 0), (2, 0, 1)}
    assert 150 < drawn.count((1, 2, 0)) < 250


def test_which_classes_depends_on_the_seed() -> None:
    sets = {frozenset(corrupted(20, 0.2, seed, "label noise").tolist()) for seed in range(10)}
    assert len(sets) > 5
    assert corrupted(20, 0.2, 0, "label noise").tolist() != corrupted(20, 0.2, 0, "coarse noise").tolist()


@pytest.mark.parametrize("tree", [Taxonomy.from_names(["a", "b"]), Taxonomy.from_groups({"one": ["a", "b"]})])
def test_coarse_noise_needs_two_groups(tree: Taxonomy) -> None:
    with pytest.raises(DataError, match=r"coarse_noise=0\.5: expected a tree with two groups"):
        sources(tree, Control(0, coarse_noise=0.5))


def test_in_a_deep_tree_the_whole_path_is_the_wrong_group_s() -> None:
    above_C = sources(DEEP, Control(3, coarse_noise=1.0))[1]
    for leaf, source in enumerate(above_C.tolist()):
        assert DEEP.parents[leaf] != DEEP.parents[source]


# ---------------------------------------------------------------------- texts and vectors
@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An encoder of one direction a text, which notes what it is given."""
    seen: list[str] = []

    def embed(texts: list[str], encoder: str) -> torch.Tensor:
        seen[:] = texts
        return torch.eye(len(texts), 16)

    monkeypatch.setattr(labels, "embed", embed)
    return seen


def test_a_prompt_stands_around_classes_and_groups(read: list[str]) -> None:
    labels.label_embeddings(DEEP, encoder="e", label_text="name", prompt="a photo of a {}, {of}")
    assert read == [f"a photo of a {name}, {{of}}" for name in DEEP.node_names]


@pytest.mark.usefixtures("read")
def test_levels_follow_their_sources_and_the_groups_own_texts_stay() -> None:
    true = labels.label_embeddings(DEEP, encoder="e", label_text="name")
    control = Control(1, coarse_noise=0.75)
    above_C = sources(DEEP, control)[1]
    found = labels.label_embeddings(DEEP, encoder="e", label_text="name", control=control)
    assert torch.equal(found.fine_CD, true.fine_CD)
    for number in (1, 2):
        assert torch.equal(found.levels[number], true.levels[number][above_C])
    assert not torch.equal(found.coarse_CD, true.coarse_CD)
    assert torch.equal(found.coarse_KD, true.coarse_KD)


@pytest.mark.usefixtures("read")
def test_random_vectors_have_the_encoder_s_width_and_the_tree_s_groups() -> None:
    one, again, other = (
        labels.label_embeddings(DEEP, encoder="e", label_text="name", control=Control(seed, random=True))
        for seed in (1, 1, 2)
    )
    assert one.fine_CD.shape == (4, 16)
    assert torch.allclose(one.fine_CD.norm(dim=1), torch.ones(4))
    assert torch.equal(one.coarse_CD[0], one.coarse_CD[1]), "classes of a group share its vector"
    assert not torch.equal(one.coarse_CD[0], one.coarse_CD[2])
    assert all(torch.equal(a, b) for a, b in zip(one.levels, again.levels, strict=True))
    assert not torch.equal(one.fine_CD, other.fine_CD)


def test_random_directions_have_no_structure() -> None:
    rows = random_rows(200, 384, 0)
    cosines = (rows @ rows.T)[~torch.eye(200, dtype=torch.bool)]
    assert abs(float(cosines.mean())) < 0.005
    assert float(cosines.std()) == pytest.approx(384**-0.5, rel=0.05)


# ---------------------------------------------------------------------- fields
def test_signatures_of_before_are_what_they_were() -> None:
    assert TrialConfig(subset="ce").signature() == "57bcbb1295dc"
    new = {"prompt": "{}", "random_labels": False, "label_noise": 0.0, "coarse_noise": 0.0}
    for subset in SUBSETS:
        plain = TrialConfig(subset=subset)
        assert not new.keys() & plain.resolved.keys()
        assert plain.replace(**new).signature() == plain.signature()
        assert control_of(plain) is None


@pytest.mark.parametrize("field", [{"random_labels": True}, {"label_noise": 0.4}, {"coarse_noise": 1.0}])
def test_controls_are_absent_where_no_term_reads_the_texts(field: dict[str, object]) -> None:
    for subset, has in (("ce", False), ("ce+reg", False), ("hace", False), ("ce+triplet", True), (FULL, True)):
        plain = TrialConfig(subset=subset)
        assert (plain.replace(**field) != plain) == has, subset
        assert (control_of(plain.replace(**field)) is not None) == has


def test_a_prompt_counts_for_every_subset_since_metrics_read_the_texts() -> None:
    assert TrialConfig(subset="ce", prompt="a {}") != TrialConfig(subset="ce")


@pytest.mark.parametrize("prompt", ["", "a photo", "{} or {}", "a {0}"])
def test_a_prompt_has_one_place(prompt: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one \{\}, where the name stands"):
        _ = TrialConfig(prompt=prompt).resolved


def test_shuffled_and_noisy_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"shuffle_labels and label_noise=0\.2"):
        _ = TrialConfig(shuffle_labels=True, label_noise=0.2).resolved
    for value in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="label_noise"):
            TrialConfig(label_noise=value)


# ---------------------------------------------------------------------- training
@pytest.mark.parametrize("field", [{"random_labels": True}, {"label_noise": 1.0}, {"coarse_noise": 1.0}])
def test_controls_change_learning_and_not_the_yardstick(
    tiny: Dataset, config: TrialConfig, field: dict[str, object]
) -> None:
    trainer, control = (EndToEnd(one, tiny, "cpu") for one in (config, config.replace(**field)))
    assert trainer.labels is not None
    assert control.labels is not None
    assert torch.equal(trainer.labels.fine_CD, control.labels.fine_CD)
    assert torch.equal(trainer.labels.coarse_CD, control.labels.coarse_CD)
    assert not torch.equal(trainer.objective.level_1, control.objective.level_1)
    assert torch.equal(trainer.objective.level_0, control.objective.level_0) == ("coarse_noise" in field)


@pytest.mark.parametrize("subset", ["ce+anchor", "ce+triplet", "ce+devise", FULL])
def test_latents_of_another_width_than_the_texts_are_refused_before_training(
    tiny: Dataset, config: TrialConfig, subset: str
) -> None:
    config = config.replace(subset=subset, latent_dim=256)
    with pytest.raises(LatentWidthError, match=r"term '\w+' holds latents of width 256 .* expected latent_dim=384"):
        EndToEnd(config, tiny, "cpu")
    for own in ({"subset": "ce+reg"}, {"subset": "ce+cpcc"}, {"latent_dim": 384}):
        EndToEnd(config.replace(**own), tiny, "cpu")


def test_a_whole_noise_curve_is_one_stack_of_heads() -> None:
    base = TrialConfig(method="heads", subset=FULL, backbone="tf_efficientnet_lite0")
    curve = [base.replace(label_noise=share) for share in (0.2, 0.4)]
    curve += [base.replace(shuffle_labels=True), base.replace(random_labels=True), base.replace(coarse_noise=0.5)]
    keys = {stack_key(config) for config in curve}
    assert len(keys | {stack_key(base)}) == 2
    assert stack_key(base) not in keys
    assert stack_key(base.replace(prompt="a {}")) != stack_key(base)

"""Batch: what terms share, against plain loops; its hand-written gradients; its negatives; what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from laresa import losses
from laresa.batch import Batch, moments, unit
from laresa.errors import ConfigError
from laresa.taxonomy import Taxonomy
from laresa.terms import term
from tests.laresa.checks import FOREST, RAGGED, D, N, assert_same, draw, labels

C = FOREST.leaves
LEVELS = tuple(normalize(draw(seed, C, D), dim=1) for seed in (1, 2))
Y = labels(3, C)


def make(z: Tensor, logits: Tensor | None = None, **more: Any) -> Batch:
    return Batch(draw(4, N, C) if logits is None else logits, z, Y, **{"tree": FOREST, "labels": LEVELS, **more})


def test_hand_written_gradients_pass_gradcheck() -> None:
    assert torch.autograd.gradcheck(unit, draw(9, N, D).requires_grad_())
    assert torch.autograd.gradcheck(moments, draw(9, N, D).requires_grad_())


def test_moments_are_torchs() -> None:
    z = draw(8, N, D)
    torch.testing.assert_close(make(z).moments(), (z.mean(0), z.std(0)))
    assert make(draw(8, N, D)[:1]).moments()[1].tolist() == [1.0] * D


@pytest.mark.parametrize("form", ["raw", "unit", "scaled"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "sample"])
def test_every_reading_of_reg_is_its_equation_of_those_latents(form: str, reduction: str) -> None:
    def read(z: Tensor) -> Tensor:
        norm_N1 = z.square().sum(1, keepdim=True).sqrt()
        return {"raw": z, "unit": z / norm_N1, "scaled": D**0.5 * z / norm_N1}[form]

    def of(name: str, z: Tensor) -> Tensor:
        return term(name).fn(make(z), input=form, reduction=reduction)

    z = draw(8, N, D)
    assert_same(lambda z: of("variance", z), lambda z: losses.variance_loss(read(z), reduction=reduction), z)
    if reduction != "sample":
        assert_same(lambda z: of("center", z), lambda z: losses.center_loss(read(z), reduction=reduction), z)


def test_latents_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match="asks for latents 'half': expected one of raw, unit, scaled"):
        make(draw(8, N, D)).latents("half")


@pytest.mark.parametrize(("level", "number"), [("fine", 0), ("coarse", 1), (1, 1)])
def test_cosines_are_the_naive_loop_at_every_level(level: str | int, number: int) -> None:
    def naive(z: Tensor) -> Tensor:
        return torch.stack([z[n] @ LEVELS[number][Y[n]] / (z[n] @ z[n]).sqrt() for n in range(N)])

    assert_same(lambda z: make(z).cosines(level), naive, draw(5, N, D))
    assert_same(lambda z: make(z).scores(level)[range(N), Y], naive, draw(5, N, D))


def test_what_is_shared_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("laresa.batch.unit", lambda z: calls.append(z) or unit(z))
    batch = make(draw(5, N, D))
    assert batch.cosines("fine") is batch.cosines(0)
    assert batch.scores("coarse") is batch.scores(1)
    assert batch.cosines("negative") is batch.cosines("negative")
    assert len(calls) == 1


def test_negatives_are_uniform_over_the_other_classes() -> None:
    y = torch.arange(5).repeat(4000)
    z, generator = torch.zeros(len(y), D), torch.Generator().manual_seed(0)
    batch = Batch(z, z, y, classes=5, uniform=lambda shape: torch.rand(shape, generator=generator))
    counts = torch.zeros(5, 5).index_put_((y, batch.negative_N), torch.ones(len(y)), accumulate=True)
    assert not counts.diagonal().any()
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert (others - 1000).abs().max() < 5 * math.sqrt(1000)
    two = Batch(
        z[:4], z[:4], torch.tensor([0, 1, 1, 0]), classes=2, uniform=lambda shape: torch.full(shape, 1 - 2**-24)
    )
    assert two.negative_N.tolist() == [1, 0, 0, 1]


def test_latents_are_widened_and_no_more() -> None:
    for given, wide in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        batch = make(draw(5, N, D).to(given), view_ND=draw(6, N, D).to(given), features_NF=draw(6, N, 2).to(given))
        assert {x.dtype for x in (batch.z_ND, batch.view_ND, batch.features_NF, batch.cosines("fine"))} == {wide}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda b: b.view_ND, r"second view.*views=2"),
        (lambda b: b.features_NF, "features"),
        (lambda b: b.cosines("fien"), "level 'fien': expected 'fine', 'coarse', 'negative' or a number"),
        (lambda b: b.scores(-1), "level -1"),
        (lambda b: b.cosines(2), "level 2: there are those of 2 levels"),
        (lambda b: Batch(b.logits, b.z_ND, b.y_N, tree=FOREST).cosines("fine"), "label embeddings"),
        (lambda b: Batch(b.logits, b.z_ND, b.y_N).tree, "flat"),
        (lambda b: make(b.z_ND, tree=Taxonomy.from_names("abcde")).cosines("coarse"), "flat"),
        (lambda b: Batch(b.logits, b.z_ND, b.y_N, classes=1).negative_N, "second class"),
    ],
)
def test_what_is_not_there_is_said(ask: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(make(draw(5, N, D)))


# ---------------------------------------------------------------------- mixed targets
MIXED = torch.softmax(3 * draw(7, N, C), 1)


def with_target(name: str, x: Tensor, target_NC: Tensor | None, y_N: Tensor, **fields: Any) -> Tensor:
    """A term's loss per sample (ce: N times the mean) where x stands for the logits, of anchor for the latents."""
    z = x if name == "anchor" else draw(5, N, D)
    logits = draw(4, N, C) if name == "anchor" else x
    batch = Batch(logits, z, y_N, tree=FOREST, labels=LEVELS, target_NC=target_NC)
    return term(name).fn(batch, **fields)


@pytest.mark.parametrize(
    ("name", "width", "fields"),
    [
        ("ce", C, {}),
        ("hace", len(FOREST.parents), {"dilution": 0.6, "smoothing": 0.1}),
        ("hxe", C, {"alpha": 0.4}),
        ("soft_label", C, {"beta": 5.0}),
        ("anchor", D, {"beta": torch.tensor([0.4, 1.3], dtype=torch.float64)}),
    ],
)
def test_under_mixed_targets_a_loss_is_the_mean_over_the_shares(name: str, width: int, fields: Any) -> None:
    def naive(x: Tensor) -> Tensor:
        by_class = [with_target(name, x, None, torch.full((N,), c), **fields) for c in range(C)]
        if name == "ce":  # a scalar by itself: by sample here
            by_class = [torch.nn.functional.cross_entropy(x, torch.full((N,), c), reduction="none") for c in range(C)]
            return sum((MIXED[:, c] * by_class[c]).mean() for c in range(C))
        return sum(MIXED[:, c] * by_class[c] for c in range(C))

    assert_same(lambda x: with_target(name, x, MIXED, Y, **fields), naive, draw(6, N, width))


# ---------------------------------------------------------------------- trees of other shapes
def test_levels_of_a_ragged_tree_keep_the_top() -> None:
    assert [RAGGED.level(number).tolist() for number in range(3)] == [[0, 1, 2, 3], [4, 4, 5, 6], [5, 5, 6, 6]]


# ---------------------------------------------------------------------- triplet.negatives
def naive_nearest(z: Tensor, margin: float) -> Tensor:
    """The other class is the one whose text is nearest to the own class's text."""
    fine, values = LEVELS[0], []
    for n in range(N):
        own = int(Y[n])
        other = max((c for c in range(C) if c != own), key=lambda c: float(fine[own] @ fine[c]))
        values.append(losses.triplet_loss(z[n : n + 1], fine[own : own + 1], fine[other : other + 1], margin=margin))
    return torch.cat(values)


def naive_semi_hard(z: Tensor, margin: float) -> Tensor:
    """Of the classes farther than the own the nearest; where all are nearer, the farthest."""
    fine, values = LEVELS[0], []
    for n in range(N):
        own = int(Y[n])
        cosine = [(z[n] @ fine[c] / z[n].norm()).item() for c in range(C)]
        others = [c for c in range(C) if c != own]
        farther = [c for c in others if cosine[c] < cosine[own]]
        other = max(farther, key=lambda c: cosine[c]) if farther else min(others, key=lambda c: cosine[c])
        values.append(losses.triplet_loss(z[n : n + 1], fine[own : own + 1], fine[other : other + 1], margin=margin))
    return torch.cat(values)


@pytest.mark.parametrize(("negatives", "naive"), [("nearest", naive_nearest), ("semi_hard", naive_semi_hard)])
@pytest.mark.parametrize("seed", range(4))
def test_chosen_negatives_are_the_naive_loop(negatives: str, naive: Any, seed: int) -> None:
    z = draw(20 + seed, N, D)
    z[0] = -LEVELS[0][Y[0]]  # every other class is nearer than its own
    assert_same(lambda z: term("triplet").fn(make(z), margin=0.5, negatives=negatives), lambda z: naive(z, 0.5), z)


def test_uniform_negatives_take_the_trial_s_numbers() -> None:
    z, drawn = draw(5, N, D), torch.rand(N, generator=torch.Generator().manual_seed(1))
    other = (Y + 1 + (drawn * (C - 1)).long()) % C
    found = term("triplet").fn(make(z, uniform=lambda shape: drawn), margin=0.2)
    fine = LEVELS[0]
    torch.testing.assert_close(found, losses.triplet_loss(z, fine[Y], fine[other], margin=0.2))

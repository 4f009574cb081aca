"""Figures by what is drawn in them: panels, lines, dots."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from laresa.config import SUBSETS
from laresa.measurement import Measurement
from reports import figures, latent_map
from reports.select import Block, to_blocks
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import FULL, latents, record, study, unheard


def only_block(records: list[TrialRecord]) -> Block:
    (block,) = to_blocks(records)
    return block


def weights(block: Block) -> figures.Drawing | None:
    return figures.weights_figure(block, figures.weight_looks([block]))


def learned(block: Block) -> list[figures.Drawing | None]:
    return [figures.learned_figure(block, name, looks) for name, looks in figures.learned_looks([block]).items()]


def legend_of(drawing: figures.Drawing | None) -> dict[str, str]:
    """name -> colour."""
    assert drawing is not None
    (legend,) = drawing.figure.legends
    lines = zip(legend.get_texts(), legend.get_lines(), strict=True)
    return {text.get_text(): line.get_color() for text, line in lines}


def curve(values: dict[int, float], metric: str = "val/top1") -> tuple[Measurement, ...]:
    return tuple(Measurement(epoch, {metric: number}, 1.0) for epoch, number in values.items())


# ------------------------------------------------------------------------------------------------ curves
def test_mean_curve_lasts_as_long_as_half_of_the_replicates() -> None:
    three = [(np.array([1, 2, 3]), np.array([1.0, 2.0, 9.0])), (np.array([1, 2]), np.array([3.0, 4.0]))]
    three.append((np.array([1]), np.array([5.0])))
    epochs, values = figures.mean_curve(three)
    assert epochs.tolist() == [1, 2]  # epoch 3: one of three
    assert values.tolist() == [3.0, 3.0]


def test_curves_leave_out_what_is_not_finite_or_not_finished() -> None:
    trials = [
        record("ce", 0.5, seed=0, history=curve({1: 0.1, 2: float("nan"), 3: 0.3})),
        record("ce", 0.5, seed=1),
        record("ce", None, seed=2, state="failed", history=curve({1: 0.9})),
    ]
    ((epochs, values),) = figures.curves(only_block(trials).arms[0], "val/top1")
    assert (epochs.tolist(), values.tolist()) == ([1, 3], [0.1, 0.3])


# ------------------------------------------------------------------------------------------------ figures
def test_top1_has_a_dot_for_every_replicate_and_hollow_ones_for_collapse() -> None:
    trials = [record("ce", 0.5, seed=s) for s in range(3)]
    trials += [record(FULL, 0.6, seed=s, metrics={"collapse_step": float(s) - 1}) for s in range(2)]
    trials.append(record(FULL, None, seed=2, state="failed"))
    drawing = figures.top1_figure(only_block(trials))
    assert drawing is not None
    (ax,) = drawing.figure.axes
    assert [len(dots.get_offsets()) for dots in ax.collections] == [3, 2]
    assert [to_hex(face) for face in ax.collections[1].get_facecolors()] == [figures.BLUE.lower(), "#ffffff"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["ce   3/3", f"{FULL}   2/3"]
    paired = [line for line in ax.lines if to_hex(line.get_color()) == "#b8b8b8"]
    assert [len(line.get_xdata()) for line in paired] == [2, 2, 1]
    ticks = [line.get_xdata()[0] for line in ax.lines if line.get_color() == figures.BLACK]
    assert ticks == pytest.approx([50, 60])


def test_weights_have_a_panel_for_each_arm_with_several_terms() -> None:
    drawing = weights(only_block(study(2, 8)))
    assert drawing is not None
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in drawing.figure.axes]
    assert titles == [*SUBSETS[1:], f"{FULL}, shuffled labels", f"{FULL}, base_outside weights"]
    full = drawing.figure.axes[titles.index(FULL)]
    assert len(full.lines) == 5 * (2 + 1) + 1  # five terms: two replicates and their mean; the dotted threshold
    assert full.lines[-1].get_ydata()[0] == 0.05
    assert set(legend_of(drawing)) == {"ce", "anchor", "triplet", "center", "variance"}


def test_learned_numbers_have_a_panel_for_each_arm_that_learns_them() -> None:
    (drawing,) = learned(only_block(study(2, 8)))
    assert drawing is not None
    assert drawing.name == "learned-beta"
    assert len(drawing.figure.axes) == 6
    assert list(legend_of(drawing)) == ["beta/fine", "beta/coarse"]
    assert learned(only_block([record("ce", 0.5)])) == []


def test_names_come_from_the_histories_and_so_do_those_of_an_absent_plugin() -> None:
    block = only_block(unheard())
    assert list(legend_of(weights(block))) == ["own_base", "unheard"]  # the entropy is no weight
    (drawing,) = learned(block)
    assert drawing is not None
    assert (drawing.name, drawing.figure.axes[0].get_ylabel()) == ("learned-unheard.scale", "unheard.scale")
    assert [line.get_ydata()[0] for line in drawing.figure.axes[0].lines[::3]] == [20, 21, 22]


def test_metrics_are_told_from_learned_tensors_by_their_names() -> None:
    names = ("beta/fine", "angular.scale", "angular.scale.12", "train/loss_a.b", "val/my.own", "weight/ce", "gradnorm")
    assert [figures.tensor_of(name) for name in names] == ["beta", "angular.scale", "angular.scale", *[None] * 4]


def test_a_term_has_its_colour_in_all_of_a_reports_figures() -> None:
    second = study(2, 4, arms=("ce", "ce+triplet"), dataset="cifar100")
    blocks = to_blocks([*study(2, 4, arms=("ce", "ce+anchor", "ce+reg")), *second])
    looks = figures.weight_looks(blocks)
    found = [legend_of(figures.weights_figure(block, looks)) for block in blocks]
    assert [list(colors) for colors in found] == [["ce", "anchor", "center", "variance"], ["ce", "triplet"]]
    assert found[0]["ce"] == found[1]["ce"] == figures.PALETTE[0]
    assert len({*found[0].values(), *found[1].values()}) == 5


def test_more_numbers_than_colours_get_other_lines_and_the_last_are_left_out() -> None:
    many = {f"unheard.scale.{index}": float(index) for index in range(40)}
    trial = record("ce", 0.5, history=(Measurement(1, many, 1.0), Measurement(2, many, 1.0)))
    (looks,) = figures.learned_looks([only_block([trial])]).values()
    assert len(set(looks.values())) == len(looks) == 24
    (drawing,) = learned(only_block([trial]))
    assert drawing is not None
    assert drawing.caption.endswith("At most 24 numbers of it are drawn.")


def test_validation_shows_the_baseline_beside_every_other_arm() -> None:
    drawing = figures.validation_figure(only_block(study(3, 8, arms=("ce", "ce+reg"))))
    assert drawing is not None
    assert [len(ax.lines) for ax in drawing.figure.axes] == [3 + 1, 3 + 1 + 1]
    assert max(drawing.figure.axes[0].lines[0].get_ydata()) > 1  # percent
    assert "Dashed: the mean of ce." in drawing.caption
    other = figures.validation_figure(only_block(study(3, 8, arms=("ce+anchor", "ce+reg"))))
    assert other is not None
    assert [len(ax.lines) for ax in other.figure.axes] == [3 + 1, 3 + 1]
    assert "Dashed" not in other.caption


def test_nothing_to_draw_gives_no_figure() -> None:
    block = only_block([record("ce", None, state="failed")])
    assert figures.top1_figure(block) is weights(block) is figures.validation_figure(block) is None
    assert latent_map.latent_figure(block, latents) is None


def test_saved_figures_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    block = only_block(study(2, 6, arms=("ce", "ce+anchor")))
    first, second = (figures.save(weights(block), tmp_path / name) for name in "ab")
    assert first.svg.read_bytes() == second.svg.read_bytes()
    assert first.svg.read_text(encoding="utf-8").startswith("<?xml")
    assert Image.open(first.png).width == 840  # 5.6 inches at 150 dots


# ------------------------------------------------------------------------------------------------ UMAP
def test_latent_panels_show_every_point_and_every_centroid() -> None:
    block = only_block(study(2, 4))
    drawing = latent_map.latent_figure(block, lambda trial: None if trial.arm == "ce" else latents(trial, 60, 12, 3))
    assert drawing is not None
    titles = [ax.get_title(loc="left") for ax in drawing.figure.axes]
    assert titles == ["ce+anchor+reg", "ce+triplet+reg", FULL]
    for ax in drawing.figure.axes:
        sizes = [len(dots.get_offsets()) for dots in ax.collections]
        assert (sum(sizes[::2]), sum(sizes[1::2])) == (60, 12)  # for each of 3 coarse classes: latents, centroids
        assert all(to_hex(dots.get_edgecolor()[0]) == "#000000" for dots in ax.collections[1::2])
        assert len({to_hex(dots.get_facecolor()[0]) for dots in ax.collections[::2]}) == 3
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in drawing.figure.axes}) == 1
    points = np.concatenate([dots.get_offsets() for ax in drawing.figure.axes for dots in ax.collections])
    assert np.abs(points).max() < drawing.figure.axes[0].get_xlim()[1]
    assert drawing.caption.startswith("4 of 10 arms: those of LARESA's Fig. 3. Test latents of one replicate (seed 0,")
    assert "UMAP is lossy" in drawing.caption
    assert "Without latents: ce." in drawing.caption


def test_latent_panels_of_arms_that_are_not_the_papers() -> None:
    block = only_block([record(f"ce, {n}", 0.5) for n in range(8)] + [record("ce, late", None, state="failed")])
    first = [f"ce, {n}" for n in range(latent_map.MOST_PANELS)]
    asked: list[str] = []
    for wanted in (None, [f"ce, {n}" for n in range(8)]):
        latent_map.latent_figure(block, lambda trial: asked.append(trial.arm), wanted)
    assert asked == first * 2
    drawing = latent_map.latent_figure(block, lambda trial: latents(trial, 30, 6, 3), ["ce, 1", "ce, 3"])
    assert drawing is not None
    assert [ax.get_title(loc="left") for ax in drawing.figure.axes] == ["ce,\n1", "ce,\n3"]
    assert drawing.caption.startswith("2 of 9 arms: those asked for. ")


def test_embedding_is_repeatable_and_keeps_clusters() -> None:
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.normal(size=(20, 8)), 30 + rng.normal(size=(20, 8))]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        one, again = latent_map.embed(two), latent_map.embed(two)
    assert (one == again).all()
    centers = one[:20].mean(axis=0), one[20:].mean(axis=0)
    assert np.linalg.norm(centers[0] - centers[1]) > 3 * one[:20].std(axis=0).max()


def test_centroids_are_class_means_of_all_finite_latents() -> None:
    z = np.arange(40.0).reshape(20, 2)
    z[3] = np.nan
    arrays = {"z_ND": z, "y_N": np.repeat([0, 2], 10), "parent_C": np.zeros(3), "coarse_names": np.array(["all"])}
    points = latent_map.to_points(arrays)
    assert points is not None
    assert len(points.latents) == 19
    assert points.centroid_classes.tolist() == [0, 2]
    assert points.centroids == pytest.approx(np.stack([np.delete(z[:10], 3, axis=0).mean(0), z[10:].mean(0)]))


def test_latents_that_can_not_be_mapped_are_left_out() -> None:
    arrays = {"y_N": np.zeros(20), "parent_C": np.zeros(1), "coarse_names": np.array(["all"])}
    assert latent_map.to_points(None) is None
    assert latent_map.to_points({**arrays, "z_ND": np.ones((20, 3))}) is None
    assert latent_map.to_points({**arrays, "z_ND": np.eye(5), "y_N": np.zeros(5)}) is None


def test_many_points_are_thinned_by_a_fixed_seed() -> None:
    z = np.random.default_rng(0).normal(size=(5000, 2))
    arrays = {"z_ND": z, "y_N": np.zeros(5000), "parent_C": np.zeros(1), "coarse_names": np.array(["all"])}
    one, again = latent_map.to_points(arrays), latent_map.to_points(arrays)
    assert one is not None
    assert again is not None
    assert len(one.latents) == latent_map.MOST_POINTS
    assert (one.latents == again.latents).all()
    assert one.centroids == pytest.approx(z.mean(axis=0, keepdims=True), abs=1e-6)

"""The paper's figures of a whole report: grids of weights, by what is drawn in them and where it lies."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Container, Iterable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import reports
from laresa.measurement import Measurement
from reports import Report, figures, paper_figures, paper_style
from reports.dark import INK, PAGE, SHADES
from reports.development import development_figure, no_snapshots, spread
from reports.latent_map import PAPER_PANELS, latent_figure
from reports.select import Block, to_blocks
from sweeps.service.tracking.records import TrialRecord
from tests.reports.handmade import FULL, latents, record, study, unheard

BACKBONES = (
    *(
        "resnet50",
        "resnet101",
        "resnet152",
        "convnext_small.fb_in1k",
        "convnext_base.fb_in1k",
        "convnext_large.fb_in1k",
    ),
    *("vit_small_patch32_224", "vit_base_patch32_224", "vit_large_patch32_224"),
)
DATASETS = ("cifar100", "cub200", "tinyimagenet")


def weighed(ce: Iterable[float], *, seed: int = 0, step: float = -1.0, **config: object) -> TrialRecord:
    """A trial of the full objective whose base weight takes these values, an epoch each."""
    history = tuple(
        Measurement(epoch, {"weight/ce": w, "weight/anchor": 1 - w, "beta/fine": w, "beta/coarse": 1 - w}, 1.0)
        for epoch, w in enumerate(ce, start=1)
    )
    return record(FULL, 0.5, seed=seed, history=history, metrics={"collapse_step": step}, **config)


def pairs(
    backbones: Iterable[str], datasets: Iterable[str], without: Container[tuple[str, str]] = ()
) -> tuple[Block, ...]:
    records = [
        trial
        for backbone, dataset in itertools.product(backbones, datasets)
        if (backbone, dataset) not in without
        for trial in study(2, 6, arms=("ce", FULL), backbone=backbone, dataset=dataset)
    ]
    return to_blocks(records)


def grid(blocks: tuple[Block, ...]) -> figures.Drawing:
    drawing = paper_figures.weights_grid(blocks, figures.weight_looks(blocks))
    assert drawing is not None
    return drawing


def crowded(figure: Figure) -> list[str]:
    """What is cut off by the figure's edge, lies on the legend or on another panel, as the figure is saved."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (legend,) = figure.legends
    below, page = legend.get_window_extent(renderer), figure.bbox
    panels = [ax.get_tightbbox(renderer) for ax in figure.axes]
    found = [f"panel {n} on the legend" for n, box in enumerate(panels) if box.y0 < below.y1]
    for (n, one), (m, other) in itertools.combinations(enumerate(panels), 2):
        if one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1:
            found.append(f"panels {n} and {m}")
    named = {"legend": below, **{f"panel {n}": box for n, box in enumerate(panels)}}
    for name, box in named.items():
        if box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1:
            found.append(f"{name} cut off")
    return found


def test_one_block_has_no_grid_and_neither_have_blocks_without_the_full_objective() -> None:
    alone = to_blocks([weighed([0.5, 0.4])])
    looks = figures.weight_looks(alone)
    assert paper_figures.weights_grid(alone, looks) is None
    assert paper_figures.learned_grids(alone, figures.learned_looks(alone)) == []
    bare = to_blocks([record("ce", 0.5, backbone=name) for name in "ab"])
    assert paper_figures.weights_grid(bare, looks) is None


def test_collapse_is_marked_at_the_epoch_in_which_the_base_weight_fell() -> None:
    trials = [weighed([0.5, 0.2, 0.04, 0.06], step=60, backbone="a"), weighed([0.5, 0.4], backbone="b")]
    drawing = grid(to_blocks([*trials, weighed([0.5, 0.01], seed=1, step=30, backbone="a")]))
    marks = [[line.get_xdata()[0] for line in ax.lines if line.get_gid() == "collapse"] for ax in drawing.figure.axes]
    assert marks == [[3, 2], []]
    assert "2 of 3 trials collapsed" in drawing.caption


def test_the_grid_of_27_pairs_stays_readable() -> None:
    missing = {(BACKBONES[1], "cub200"), (BACKBONES[8], "cifar100")}
    drawing = grid(pairs(BACKBONES, DATASETS, missing))
    axes = drawing.figure.axes
    assert len(axes) == 27
    assert [n for n, ax in enumerate(axes) if "not run" in [text.get_text() for text in ax.texts]] == [4, 24]
    assert "Without curves: 2 of 27 pairs." in drawing.caption
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in axes}) == 1
    assert crowded(drawing.figure) == []
    sizes = {text.get_fontsize() for text in drawing.figure.findobj(Text) if text.get_text()}
    assert min(sizes) == pytest.approx(7)
    assert drawing.figure.get_figwidth() == 6.9
    assert drawing.figure.get_figheight() < 9.5


def test_long_names_of_data_sets_and_backbones_stay_apart() -> None:
    datasets = [f"tinyimagenet{letter}" for letter in "abcdefg"]
    trials = [weighed([0.5, 0.4], backbone=name, dataset=data, shots=20) for name in BACKBONES[6:] for data in datasets]
    assert crowded(grid(to_blocks(trials)).figure) == []


def test_an_objective_that_is_not_the_papers_has_its_grid_too() -> None:
    (block,) = to_blocks(unheard())
    drawing = grid(tuple(replace(block, backbone=name) for name in "ab"))
    assert drawing.caption.startswith("Weights α of the terms of own_base+unheard (a softmax: they sum to 1) over")
    assert "No base term's weight fell under 0.05: 0 of 4 trials collapsed." in drawing.caption


def test_beta_is_in_the_same_grid() -> None:
    blocks = to_blocks([weighed([0.5, 0.4], backbone=name) for name in "ab"])
    (drawing,) = paper_figures.learned_grids(blocks, figures.learned_looks(blocks))
    assert drawing.name == "learned-beta-grid"
    assert drawing.figure.get_figwidth() == 3.3
    assert [len(ax.lines) for ax in drawing.figure.axes] == [2, 2]
    assert "One trial each." in drawing.caption


# ------------------------------------------------------------------------------------------------ dark pages
def brightness(color: str) -> float:
    """WCAG's relative luminance of "#rrggbb"."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_figure_has_a_dark_variant_with_other_ink_and_the_same_data(tmp_path: Path) -> None:
    saved = figures.save(grid(pairs("ab", ["c"])), tmp_path)
    light, dark = (path.read_text(encoding="utf-8") for path in (saved.svg, saved.dark))
    assert saved.files == (saved.svg, saved.png, saved.dark)
    assert saved.dark == tmp_path / "dark" / saved.svg.name
    root = ElementTree.fromstring(dark)
    assert (ElementTree.fromstring(light).get("fill"), root.get("fill")) == (None, INK)  # text has no colour of its own
    colors = set(re.findall(r"(?:fill|stroke): (#\w+)", dark))
    assert not colors & set(SHADES)
    assert PAGE in colors
    assert {figures.BLUE.lower(), figures.VERMILION.lower()} <= colors
    assert len(dark) == pytest.approx(len(light), abs=40)
    again = figures.save(grid(pairs("ab", ["c"])), tmp_path / "again")
    assert [a.read_bytes() for a in again.files] == [b.read_bytes() for b in saved.files]


def test_ink_and_palette_stand_out_on_the_dark_page() -> None:
    assert all(contrast(color, PAGE) >= 3 for color in (*figures.PALETTE, SHADES["#555555"]))
    assert contrast(INK, PAGE) >= 7
    assert contrast(SHADES["#6b6b6b"], SHADES["#f4f4f4"]) >= 4.5
    css = Path(reports.__file__).with_name("page.css").read_text(encoding="utf-8")
    assert f"--page: {PAGE}; --ink: {INK};" in css.partition("prefers-color-scheme: dark")[2]


def test_the_page_shows_the_dark_variant_where_the_reader_prefers_it(whole: Report) -> None:
    text = whole.html.read_text(encoding="utf-8")
    shown = re.findall(
        r'<picture><source media="screen and \(prefers-color-scheme: dark\)" '
        r'srcset="data:image/svg\+xml;base64,([^"]+)">'
        r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="[^"]+"></picture>',
        text,
    )
    files = [path for path in whole.figures if path.suffix == ".svg"]
    found = [base64.b64decode(each) for pair in shown for each in reversed(pair)]
    assert found == [path.read_bytes() for path in files]
    assert len(shown) == text.count('<figure id="figure-')


# ------------------------------------------------------------------------------------------------ latents
def named(trial: TrialRecord, groups: int, n: int = 50) -> dict[str, np.ndarray]:
    """Latents of so many coarse classes with long names."""
    names = [f"things of the kind that has the number {group}" for group in range(groups)]
    return {**latents(trial, n, n, 3), "parent_C": np.arange(n) % groups, "coarse_names": np.array(names)}


@pytest.mark.parametrize("groups", [6, 40])
def test_one_legend_for_all_latent_panels_that_is_never_cut_off(groups: int) -> None:
    (block,) = to_blocks([record(arm, 0.5) for arm in (*PAPER_PANELS, "ce+anchor")])
    drawing = latent_figure(block, lambda trial: named(trial, groups))
    assert drawing is not None
    assert crowded(drawing.figure) == []
    (legend,) = drawing.figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(set(texts)) == groups
    assert max(map(len, texts)) <= paper_style.LETTERS
    assert min(text.get_fontsize() for text in legend.get_texts()) == 7
    panels = drawing.figure.axes
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in panels}) == 1
    assert {ax.get_aspect() for ax in panels} == {1.0}
    assert "one scale and the same limits" in drawing.caption


def test_long_names_are_cut_at_spaces_and_stay_apart() -> None:
    long = ["large omnivores and big herbivores", "large man-made outdoor but old things", "fish"]
    assert paper_style.abbreviated(long) == ["large omnivores … herbivores", "large man-made … things", "fish"]
    same = [f"{'a' * 40} {n} {'z' * 40}" for n in (1, 2)]
    assert paper_style.abbreviated(same) == same
    assert paper_style.broken("vit_base_patch32_224", "_.") == "vit_base_\npatch32_224"


# ------------------------------------------------------------------------------------------------ over training
def moving(trial: TrialRecord, epochs: Iterable[int]) -> dict[int, dict[str, np.ndarray]]:
    """Clusters that part as training goes on; one image is not finite in the second epoch, none in the 51st."""
    kept = latents(trial, 18, 6, 3)
    found = {epoch: {**kept, "z_ND": kept["z_ND"] * (1 + epoch / 10)} for epoch in epochs}
    if 2 in found:
        found[2]["z_ND"][3] = np.nan
    if 51 in found:
        found[51]["z_ND"][:] = np.nan
    return found


def test_development_has_a_row_an_arm_and_an_epoch_a_column() -> None:
    (block,) = to_blocks([record(arm, 0.5, seed=seed) for arm in ("ce", "ce+anchor", FULL) for seed in (0, 1)])
    asked = []

    def snapshots(trial: TrialRecord) -> dict[int, dict[str, np.ndarray]]:
        asked.append((trial.arm, trial.config.seed))
        return moving(trial, {"ce": range(1, 4), FULL: range(1, 52)}[trial.arm]) if trial.config.seed else {}

    drawing = development_figure(block, snapshots)
    assert drawing is not None
    assert asked == [("ce", 0), (FULL, 0), ("ce", 1), (FULL, 1)]
    panels = drawing.figure.axes
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles == [f"epoch {epoch}" for epoch in (1, 2, 3, 1, 13, 26, 38)]
    assert [ax.get_ylabel() for ax in panels if ax.get_ylabel()] == ["ce", "ce+anchor+\ntriplet+reg"]
    counts = [sum(len(dots.get_offsets()) for dots in ax.collections[::2]) for ax in panels]
    assert counts == [17] * 3 + [18] * 4  # the same images in each panel of a row
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in panels}) == 1
    assert crowded(drawing.figure) == []
    assert drawing.alt == f"Scatter plots of the latent space of ce and {FULL}, a panel an epoch"


def test_development_needs_two_epochs_of_one_arm() -> None:
    (block,) = to_blocks([record("ce", 0.5), record(FULL, 0.5)])
    assert development_figure(block, no_snapshots) is None
    assert development_figure(block, lambda trial: moving(trial, [1])) is None
    drawing = development_figure(block, lambda trial: moving(trial, [1, 3] if trial.arm == "ce" else []))
    assert drawing is not None
    assert len(drawing.figure.axes) == 2


def test_epochs_are_spread_over_the_training() -> None:
    assert spread([3, 9]) == [3, 9]
    assert spread([1, 2, 3, 4, 5, 6, 50, 100]) == [1, 6, 50, 100]
    assert spread(range(1, 101)) == [1, 26, 50, 75, 100]

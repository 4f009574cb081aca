"""UMAP panels of the test latents of one replicate, an arm a panel. Imports umap only when one is drawn."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import BLACK, PALETTE, Drawing
from reports.paper_style import COLUMN, PAPER_STYLE, TWO_COLUMNS, broken, fitted_legend
from reports.published import BASELINE, LARESA
from reports.select import Arm, Block, Replicate
from sweeps.service.tracking.records import TrialRecord

PAPER_PANELS = (BASELINE, "ce+anchor+reg", "ce+triplet+reg", LARESA)  # as LARESA, Fig. 3
MOST_PANELS = 8  # as many as the paper has subsets
NEIGHBORS, MIN_DISTANCE, SEED = 15, 0.1, 0
FEWEST_POINTS, MOST_POINTS = 10, 2000
MARKERS = "os^Dv"  # 8 colours x 5 shapes keep 40 coarse classes apart

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Latents = Callable[[TrialRecord], Mapping[str, np.ndarray] | None]


@dataclass(frozen=True)
class Points:
    """What one panel shows: latents N x D and class centroids P x D with their classes; coarse label by class."""

    latents: Floats
    classes: Ints
    centroids: Floats
    centroid_classes: Ints
    parents: Ints
    coarse_names: tuple[str, ...]


def latent_figure(block: Block, latents: Latents, arms: Sequence[str] | None = None) -> Drawing | None:
    """One panel for each arm of `arms` that has latents, at most MOST_PANELS; None where no arm has any.

    arms: None for the paper's four where the block has them all, else for the first ones with a result.
    """
    wanted, said = _choice(block, arms)
    key = _common_replicate(wanted)
    if key is None:
        return None
    found = {arm.label: to_points(latents(arm.chosen[key])) for arm in wanted if key in arm.chosen}
    drawn = {label: points for label, points in found.items() if points is not None}
    if not drawn:
        return None
    missing = [arm.label for arm in wanted if arm.label not in drawn]
    return Drawing(
        "latents",
        "Latent space by UMAP",
        _caption(key, said, missing),
        "Scatter plots of the latent space, a panel an arm",
        _draw(drawn),
    )


def _choice(block: Block, arms: Sequence[str] | None) -> tuple[list[Arm], str]:
    """The arms to draw, and how they were chosen where others are left out: a sentence, else ""."""
    measured = [arm for arm in block.arms if arm.chosen]
    if arms is None and all(map(block.arm, PAPER_PANELS)):
        wanted, how = [arm for arm in block.arms if arm.label in PAPER_PANELS], "those of LARESA's Fig. 3"
    elif arms is None:
        wanted, how = measured[:MOST_PANELS], "the first in the study's order"
    else:
        asked = [arm for arm in block.arms if arm.label in arms]
        wanted = asked[:MOST_PANELS]
        how = "the first of those asked for" if len(asked) > MOST_PANELS else "those asked for"
    left = any(arm not in wanted for arm in measured)
    return wanted, f"{len(wanted)} of {len(block.arms)} arms: {how}. " if left else ""


def _common_replicate(arms: Sequence[Arm]) -> Replicate | None:
    """The replicate that most of the arms have; of equals the first."""
    keys = sorted({key for arm in arms for key in arm.chosen})
    return min(keys, key=lambda key: -sum(key in arm.chosen for arm in arms), default=None)


def _caption(key: Replicate, chosen: str, missing: Sequence[str]) -> str:
    return (
        f"{chosen}Test latents of one replicate (seed {key[0]}, fold {key[1]}), coloured by coarse class; "
        "larger, with a border: centroids of the fine classes, computed in the latent space and placed by the "
        "same map. Each panel is a map of its own, for latent spaces of different networks have no common axes; all "
        f"are centred, with one scale and the same limits. {lossy(MOST_POINTS)}"
        + (f" Without latents: {', '.join(missing)}." if missing else "")
    )


def lossy(most: int) -> str:
    """What every map has to say of itself."""
    return (
        "UMAP is lossy: it keeps neighbourhoods, while gaps, sizes and densities of clusters mean little "
        f"and another seed draws another picture ({NEIGHBORS} neighbours, min_dist {MIN_DISTANCE}, Euclidean, "
        f"PCA start, seed {SEED}; at most {most:,} points)."
    )


def to_points(arrays: Mapping[str, np.ndarray] | None, most: int = MOST_POINTS) -> Points | None:
    """The arrays of latents.npz with centroids added; None where there are none, too few, or all are the same.

    most: latents kept, the same ones of the same number; centroids are those of all.
    """
    if arrays is None:
        return None
    z_ND, y_N = np.asarray(arrays["z_ND"], dtype=np.float32), np.asarray(arrays["y_N"], dtype=np.int64)
    finite = np.isfinite(z_ND).all(axis=1)
    z_ND, y_N = z_ND[finite], y_N[finite]
    if len(z_ND) < FEWEST_POINTS or float(np.ptp(z_ND, axis=0).max()) == 0:
        return None
    p_P = np.unique(y_N)
    c_PD = np.stack([z_ND[y_N == label].mean(axis=0) for label in p_P])
    if len(z_ND) > most:
        kept = np.sort(np.random.default_rng(SEED).choice(len(z_ND), most, replace=False))
        z_ND, y_N = z_ND[kept], y_N[kept]
    names = tuple(str(name) for name in arrays["coarse_names"])
    return Points(z_ND, y_N, c_PD, p_P, np.asarray(arrays["parent_C"], dtype=np.int64), names)


# ---------------------------------------------------------------------------------------------------- UMAP
def embed(z_MD: Floats) -> Floats:
    """UMAP to two dimensions, the same for the same input. M >= 10.

    The neighbours are found here and handed over: umap's own search would be compiled first, for about 7 s, and on
    some thousand points gains nothing.
    """
    from sklearn.neighbors import NearestNeighbors

    umap = _umap()
    neighbors = min(NEIGHBORS, len(z_MD) - 1)
    distance_MK, index_MK = NearestNeighbors(n_neighbors=neighbors).fit(z_MD).kneighbors(z_MD)
    known = (index_MK.astype(np.int32), distance_MK.astype(np.float32), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that new points can't be added later, which nobody wants to
        model = umap.UMAP(
            n_neighbors=neighbors,
            min_dist=MIN_DISTANCE,
            init="pca",
            random_state=SEED,
            n_jobs=1,
            precomputed_knn=known,
            force_approximation_algorithm=True,
        )
        return np.asarray(model.fit_transform(z_MD), dtype=np.float32)


@cache
def _umap() -> Any:
    """The umap package, its compiled functions kept on disk: that saves the next process about 6 s."""
    import umap
    from umap import layouts, umap_

    names = ("smooth_knn_dist", "compute_membership_strengths", "_nb_optimize_layout_euclidean_single_epoch")
    for function in (getattr(module, name, None) for module in (umap_, layouts) for name in names):
        # Only a matter of speed: another version may lack a function, and perhaps no folder can be written to.
        with contextlib.suppress(RuntimeError):
            if function is not None:
                function.enable_caching()
    return umap


# ---------------------------------------------------------------------------------------------------- drawing
def _draw(drawn: Mapping[str, Points]) -> Figure:
    columns = min(len(drawn), 2 if len(drawn) <= 4 else 3 if len(drawn) <= 6 else 4)
    cells = [
        Cell(label.replace(", ", ",\n"), points, centred(embed(np.concatenate([points.latents, points.centroids]))))
        for label, points in drawn.items()
    ]
    return panels_figure([cells[at : at + columns] for at in range(0, len(cells), columns)])


@dataclass(frozen=True)
class Cell:
    """One panel: its title, and its points with where the map puts latents, then centroids."""

    title: str
    points: Points
    map_M2: Floats


def centred(map_M2: Floats) -> Floats:
    """Around zero: where a map lies means nothing, and so panels can share their limits."""
    return map_M2 - (map_M2.max(axis=0) + map_M2.min(axis=0)) / 2


def panels_figure(rows: Sequence[Sequence[Cell]], names: Sequence[str] = ()) -> Figure:
    """Square panels with the same limits in both directions, and one legend of the coarse classes under them all.

    names: of the rows, written beside them; none where each panel's title says it all.
    """
    cells, columns = [cell for row in rows for cell in row], max(map(len, rows))
    reach = 1.05 * max(float(np.abs(cell.map_M2).max()) for cell in cells)
    width = TWO_COLUMNS if columns > 1 else COLUMN
    side = (width - (0.5 if names else 0.2)) / columns
    lines = 1 + max(cell.title.count("\n") for cell in cells)
    with mpl.rc_context(PAPER_STYLE | {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(width, side * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for number, row in enumerate(rows):
            for ax, cell in zip(axes[number], row, strict=False):
                _panel(ax, cell, side)
                ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            for ax in axes[number, len(row) :]:
                ax.remove()
            if names:
                axes[number, 0].set_ylabel(broken(names[number], "+"))
        height = fitted_legend(figure, *_legend([cell.points for cell in cells]))
        figure.set_size_inches(width, (side + 0.11 * lines + 0.1) * len(rows) + height + 0.1)
    return figure


def _panel(ax: Axes, cell: Cell, side: float) -> None:
    """Latents small and translucent, centroids of their fine classes over them. side: of the panel, in inches."""
    points = cell.points
    latent_N2, centroid_P2 = cell.map_M2[: len(points.latents)], cell.map_M2[len(points.latents) :]
    small, large = 1.5 * side, 4.5 * side  # areas, so that a panel of half the side is filled alike
    for group in range(len(points.coarse_names)):
        color, marker = _look(group)
        mine = latent_N2[points.parents[points.classes] == group]
        centers = centroid_P2[points.parents[points.centroid_classes] == group]
        # Many points in an SVG file are slow to show: the dots become one picture in it, the text stays text.
        dots = ax.scatter(mine[:, 0], mine[:, 1], s=small, color=color, marker=marker, alpha=0.7, linewidths=0)
        dots.set_rasterized(len(latent_N2) > 500)
        x, y = centers.T
        ax.scatter(x, y, s=large, color=color, marker=marker, edgecolors=BLACK, linewidths=0.6)
    ax.set_title(cell.title, loc="left")


def _look(group: int) -> tuple[str, str]:
    """Colour and marker of a coarse class."""
    return PALETTE[group % len(PALETTE)], MARKERS[group // len(PALETTE) % len(MARKERS)]


def _legend(drawn: Sequence[Points]) -> tuple[list[Line2D], list[str]]:
    names = max((list(points.coarse_names) for points in drawn), key=len)
    looks = map(_look, range(len(names)))
    handles = [Line2D([], [], linestyle="", color=color, marker=marker, markersize=4) for color, marker in looks]
    return handles, names

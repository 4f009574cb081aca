"""How the latent space develops: UMAP panels of the baseline and the full objective over the epochs of one trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports.figures import Drawing
from reports.latent_map import Cell, Points, centred, embed, lossy, panels_figure, to_points
from reports.paper_figures import full_label
from reports.select import Arm, Block, Replicate
from sweeps.service.tracking.records import TrialRecord

MOST_EPOCHS = 5
MOST_POINTS = 600  # of an epoch: one map has all epochs' together

Snapshots = Callable[[TrialRecord], Mapping[int, Mapping[str, np.ndarray]]]
Arrays = Mapping[str, np.ndarray]


def no_snapshots(_: TrialRecord) -> Mapping[int, Arrays]:
    return {}


@dataclass(frozen=True)
class Development:
    """The row of one arm: what its panels show, by epoch."""

    label: str
    by_epoch: Mapping[int, Points]


def development_figure(block: Block, snapshots: Snapshots) -> Drawing | None:
    """A row for the baseline and one for the full objective, as far as there are snapshots of two epochs at least.

    snapshots: epoch -> the arrays of latents.npz for validation images, the same ones each epoch; {} for none.
    """
    arms = [arm for label in dict.fromkeys((block.baseline, full_label([block]))) if (arm := block.arm(label))]
    key, rows = _first_replicate(arms, snapshots)
    if key is None:
        return None
    maps = [_cells(row) for row in rows]
    labels = [row.label for row in rows]
    caption = (
        f"Validation latents over the training of one replicate (seed {key[0]}, fold {key[1]}), a row an arm, coloured "
        "by coarse class; larger, with a border: centroids of the fine classes. One map a row over all of its "
        "epochs together, so that images and classes may be followed from left to right; between rows only what lies "
        f"beside what compares. All panels have one scale. {lossy(MOST_POINTS)[:-2]} an epoch)."
    )
    alt = f"Scatter plots of the latent space of {' and '.join(labels)}, a panel an epoch"
    return Drawing("development", "Latent space over training", caption, alt, panels_figure(maps, labels))


def _first_replicate(arms: Sequence[Arm], snapshots: Snapshots) -> tuple[Replicate | None, list[Development]]:
    """The first replicate with snapshots of all the arms, else the first with any; asked for no further than needed."""
    best: tuple[Replicate | None, list[Development]] = (None, [])
    for key in sorted({key for arm in arms for key in arm.chosen}):
        found = [_development(arm, snapshots(arm.chosen[key])) for arm in arms if key in arm.chosen]
        rows = [row for row in found if row is not None]
        if len(rows) > len(best[1]):
            best = key, rows
        if len(rows) == len(arms):
            break
    return best


def _development(arm: Arm, kept: Mapping[int, Arrays]) -> Development | None:
    """None where fewer than two epochs can be mapped."""
    found = {epoch: kept[epoch] for epoch in spread(sorted(kept))}
    finites = {epoch: np.isfinite(each["z_ND"]).all(axis=1) for epoch, each in found.items()}
    arrays = {epoch: each for epoch, each in found.items() if finites[epoch].mean() > 0.5}  # else it has diverged
    if len({each["z_ND"].shape for each in arrays.values()}) != 1:
        return None
    # An image that has no finite latent in one epoch is left out of all of them: the same images stand in each panel.
    finite = np.all([finites[epoch] for epoch in arrays], axis=0)
    same = {epoch: {**a, "z_ND": a["z_ND"][finite], "y_N": a["y_N"][finite]} for epoch, a in arrays.items()}
    drawn = {epoch: points for epoch, a in same.items() if (points := to_points(a, MOST_POINTS)) is not None}
    return Development(arm.label, drawn) if len(drawn) > 1 else None


def spread(epochs: Sequence[int], most: int = MOST_EPOCHS) -> list[int]:
    """At most so many of the epochs, first and last among them, as evenly spread over the training as there are."""
    if len(epochs) <= most:
        return list(epochs)
    wanted = np.linspace(epochs[0], epochs[-1], most)
    return sorted({min(epochs, key=lambda epoch: abs(epoch - at)) for at in wanted})


def _cells(row: Development) -> list[Cell]:
    """One map over all epochs, cut into their panels."""
    parts = [np.concatenate([points.latents, points.centroids]) for points in row.by_epoch.values()]
    whole = centred(embed(np.concatenate(parts)))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return [
        Cell(f"epoch {epoch}", points, part)
        for (epoch, points), part in zip(row.by_epoch.items(), np.split(whole, ends), strict=True)
    ]

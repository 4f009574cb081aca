"""What a study will fill: artifacts in the tracker, checkpoints on storage, decoded images on each node, rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from laresa.config import TrialConfig
from laresa.errors import LaresaError
from sweeps.service.study import RunOptions
from sweeps.service.tracking.thin import EPOCHS_TRACKED

if TYPE_CHECKING:
    from laresa.data.cache import Source

FLOAT = 4  # bytes
# Of the weights' size: a checkpoint has the weights, the best ones, and Adam's two moments.
CHECKPOINT = 4
WIDTH = 384  # of latents
SNAPSHOT = 2000 * WIDTH * 2  # bytes of one of --latents-every
METRICS, OF_TERM = 10, 3  # of an epoch: what every trial has, and what each weighted term adds


@dataclass(frozen=True)
class Footprint:
    """Bytes, and rows of metrics in the tracker. None: of a data set or backbone that can't be looked at here."""

    artifacts: int | None
    storage: int | None
    decoded: int | None
    rows: int
    at_once: int = 1  # trials

    def lines(self) -> list[str]:
        """What a terminal shows."""
        found = []
        for size, what in (
            (self.artifacts, "artifacts in MLflow (--keep-weights)"),
            (self.storage, f"checkpoints while {self.at_once} run{'s' * (self.at_once == 1)}"),
            (self.decoded, "decoded images on each node"),
        ):
            if size:
                found.append(f"{_spoken(size)} of {what}")
        disk = [f"disk: about {', '.join(found)}"] if found else []
        return [*disk, f"MLflow: about {self.rows:,} rows of metrics"]


def footprint(
    configs: Sequence[TrialConfig], options: RunOptions, at_once: int, parameters: Callable[[TrialConfig], int | None]
) -> Footprint:
    """Of these trials, so many of them at once. parameters: of a trial's network."""
    sizes, images = [parameters(config) for config in configs], [_images(config.dataset) for config in configs]
    weights = {"best": 1, "all": 2, "none": 0}[options.keep_weights]
    artifacts, storage = None, None
    if None not in sizes and None not in images:
        known = [FLOAT * size for size in sizes if size is not None]
        latents = sum(FLOAT * WIDTH * found.tested for found in images if found is not None)
        kept = sum(_snapshots(config, options) for config in configs)
        artifacts = weights * sum(known) + latents + kept * SNAPSHOT
        storage = CHECKPOINT * sum(sorted(known, reverse=True)[:at_once])
    decoded: int | None = 0
    for key, found in {(c.dataset, c.image_size): i for c, i in zip(configs, images, strict=True)}.items():
        size = None if found is None else found.decoded * 3 * (key[1] or found.size) ** 2
        decoded = None if decoded is None or size is None else decoded + size
    return Footprint(artifacts, storage, decoded, sum(map(_rows, configs)), at_once)


def network_parameters(config: TrialConfig) -> int | None:
    """Of timm's network and its two layers; None: of a plugin's, or of heads, which have few."""
    if config.method != "end_to_end":
        return 0
    return _of_backbone(config.backbone, config.input_size or 224)


@cache
def _of_backbone(name: str, size: int) -> int | None:
    import timm
    import torch

    if not timm.is_model(name):
        return None
    try:
        with torch.device("meta"):  # no memory, no weights
            model = timm.create_model(name, num_classes=0)
    except Exception:  # timm's builders raise many kinds
        return None
    return sum(value.numel() for value in model.parameters()) + model.num_features * WIDTH


@cache
def _source(dataset: str) -> Source | None:
    from laresa.data import source

    try:
        return source(dataset)
    except LaresaError:
        return None


@dataclass(frozen=True)
class Images:
    """decoded: how many are kept decoded. tested: on how many a trial is. size: pixels of a side."""

    decoded: int
    tested: int
    size: int


@cache
def _images(dataset: str) -> Images | None:
    """None: it is not known here."""
    from laresa.data.report import FETCHED, describe

    if (found := _source(dataset)) is not None:
        cut = 1 if "val" in found.labels else 2  # of the test images one half validates; both are kept once more
        tests = len(found.labels["test"])
        return Images(sum(map(len, found.labels.values())) + (cut - 1) * tests, tests // cut, found.size)
    if (about := next((known for known in FETCHED if known.name == dataset), None)) is not None:
        return Images(about.images, about.images // 12, about.size)  # a sixth is for tests, and half of that validates
    own = next((record for record in describe() if record["name"] == dataset), None)
    return None if own is None else Images(0, own["images"] // own["folds"], 0)


def _snapshots(config: TrialConfig, options: RunOptions) -> int:
    return config.epochs // options.latents_every + 1 if options.latents_every else 0


def _rows(config: TrialConfig) -> int:
    terms = len(config.parts)
    return min(config.epochs, EPOCHS_TRACKED) * (METRICS + OF_TERM * terms * (terms > 1))


def _spoken(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def order_line(arms: Iterable[str], first: int, count: int) -> str:
    """What is trained first, in words."""
    return f"order: first {' and '.join(arms)} of every block, {first} of {count} trials, which give a table to read"

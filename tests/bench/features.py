"""Features of a frozen network: taking them, against a plain DataLoader loop; what float16 costs."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from laresa.config import TrialConfig
from laresa.data import folds, load
from laresa.data.augment import normalise
from laresa.features import PACKAGED, FeatureConfig, backbone, features_of
from laresa.features.ridge import ridge
from tests.bench.timing import pairwise, peak_mib, row, threads

SIZE = 64


def extraction() -> list[dict[str, object]]:
    """All images of emoji120 at 64 px: ours digests, resizes, checks and keeps them; the loop does none of that."""
    data = load(TrialConfig(dataset="emoji120"))
    parts = [data.train, data.val, data.test]
    images = torch.cat([part.images[:] for part in parts])
    network = backbone.find(PACKAGED, size=SIZE)
    model = backbone.load(network)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            features_of(data, PACKAGED, FeatureConfig(), size=SIZE, root=Path(folder))

    def loop() -> None:
        found = []
        with torch.inference_mode():
            for (batch,) in DataLoader(TensorDataset(images), 64, num_workers=1):
                pixels = torch.nn.functional.interpolate(batch.float(), SIZE, mode="bicubic", antialias=True)
                found.append(model(normalise(pixels.clamp_(0, 255), network.mean, network.std)))
        torch.cat(found)

    with threads(1):
        a, b, ratio = pairwise(ours, loop, 3)
    count = len(images)
    note = f"images/s, {SIZE} px, one thread; baseline: DataLoader, one worker, batch 64. Peak memory of all this: "
    return [row("features extracted", count / a, "images/s", count / b, 1 / ratio, f"{note}{peak_mib():.0f} MiB")]


def float16() -> list[dict[str, object]]:
    """Ridge on the same features kept as float16 and as float32, over every fold of emoji120."""
    found: dict[str, list[float]] = {"float32": [], "float16": []}
    furthest = 0.0
    for fold in range(folds("emoji120")):
        data, rows = load(TrialConfig(dataset="emoji120", fold=fold)), {}
        for kept, top1s in found.items():
            features = features_of(data, PACKAGED, FeatureConfig(feature_dtype=kept))  # type: ignore[arg-type]
            rows[kept] = features.test_NF
            top1s.append(ridge(features, data.train.labels, data.val.labels, data.test.labels).test_top1)
        furthest = max(furthest, float((rows["float16"] - rows["float32"]).norm() / rows["float32"].norm()))
    half, full = (statistics.mean(found[kept]) for kept in ("float16", "float32"))
    note = f"test top-1 of ridge, {len(found['float32'])} folds; features differ by {furthest:.1e} of their norm"
    return [row("features kept as float16", half, "top-1", full, half / full, f"{note}; half the disk")]

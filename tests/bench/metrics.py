"""What is measured of latents, against scikit-learn's silhouette alone."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import silhouette_score

from laresa.metrics import nn_hit, semantic_correlation, silhouette
from tests.bench.timing import pairwise, row

SAMPLES, WIDTH, CLASSES, GROUPS = 10_000, 384, 100, 20


def latents() -> list[dict[str, object]]:
    """Of as many test images as CIFAR-100 has."""
    rng = np.random.default_rng(0)
    y_N = rng.integers(0, CLASSES, SAMPLES)
    parent_C = np.arange(CLASSES) % GROUPS
    z_ND = (rng.normal(size=(CLASSES, WIDTH))[y_N] + rng.normal(size=(SAMPLES, WIDTH))).astype(np.float32)
    e_CD, e_KD = rng.normal(size=(CLASSES, WIDTH)), rng.normal(size=(GROUPS, WIDTH))

    def ours() -> None:
        silhouette(z_ND, parent_C[y_N])
        nn_hit(z_ND, y_N, parent_C)
        semantic_correlation(z_ND, y_N, e_CD)
        semantic_correlation(z_ND, parent_C[y_N], e_KD)

    a, b, ratio = pairwise(ours, lambda: silhouette_score(z_ND, parent_C[y_N]), 3)
    note = f"silhouette, NN-hit and both correlations, {SAMPLES:,} x {WIDTH}; baseline: scikit-learn's silhouette_score"
    return [row("latent metrics", a, "s", b, ratio, note)]

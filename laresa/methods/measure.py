"""The last measurement of a trial: validation and test, once, from the weights of its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
from torch import Tensor

from laresa.labels import LabelEmbeddings
from laresa.measurement import CORRUPTIONS, STRENGTHS, TOP1_CORRUPTED, Measurement, corrupted
from laresa.metrics import evaluate, top1
from laresa.taxonomy import Taxonomy

Judged = tuple[Tensor, Tensor | None, Tensor]  # log p_NC, z_ND or None, y_N; on the CPU


def measure(
    val: Judged,
    test: Judged,
    tree: Taxonomy,
    labels: LabelEmbeddings | None,
    history: Sequence[Measurement],
    best_epoch: int,
) -> dict[str, float]:
    """ "best/val/..." (choices are made there), "test/...", "best_epoch" and "seconds/train"."""
    metrics: dict[str, float] = {}
    for prefix, (logits_NC, z_ND, y_N) in (("best/val", val), ("test", test)):
        metrics |= {f"{prefix}/{name}": x for name, x in evaluate(logits_NC, z_ND, y_N, tree, labels).items()}
    best = history[best_epoch - 1].metrics  # as the epoch itself saw it
    metrics |= {f"best/{name}": value for name, value in best.items() if name.startswith("val/")}
    metrics["best_epoch"] = float(best_epoch)
    metrics["seconds/train"] = sum(measurement.seconds for measurement in history)
    return metrics


def measure_corrupted(logits_of: Callable[[str, int], Tensor], y_N: Tensor) -> dict[str, float]:
    """Top-1 on the test images under each corruption, and the mean of all of them.

    logits_of: (kind, strength) -> logits of the test images so corrupted, as `predict` gives them.
    """
    y_N = y_N.cpu()
    found = {
        corrupted(kind, strength): top1(logits_of(kind, strength).cpu(), y_N)
        for kind in CORRUPTIONS
        for strength in STRENGTHS
    }
    return found | {TOP1_CORRUPTED: fmean(found.values())}


def latents_of(z_ND: Tensor, y_N: Tensor, tree: Taxonomy) -> Mapping[str, np.ndarray]:
    """The test latents with all that their maps need, as latents.npz holds them."""
    return {
        "z_ND": z_ND.numpy(),
        "y_N": y_N.numpy(),
        "parent_C": np.asarray(tree.parent_C),
        "fine_names": np.array(tree.names),
        "coarse_names": np.array(tree.coarse_names),
    }

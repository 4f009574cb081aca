"""Heads trained together against the same heads alone, on a GPU: nearly equal."""

from __future__ import annotations

import pytest
import torch

from laresa.data import Dataset
from laresa.features import Features
from laresa.methods.heads import Heads
from tests.laresa.methods.test_heads import FAMILIES, results


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_together_is_nearly_as_alone(family: str, data: Dataset, features: Features):
    """After some 20 steps, as the products of a batch of other size sum in another order there.

    normalised: its first gradient of alpha is 0 but for rounding, of which Adam makes a step of full size.
    """
    gpu = torch.device("cuda")
    configs = FAMILIES[family]
    found = results(Heads(configs, data, gpu, features=features))
    for index, config in enumerate(configs):
        (expected,) = results(Heads([config], data, gpu, features=features)).values()
        near = 1e-2 if config.weighting == "normalised" else 1e-5
        for ours, other in zip(found[index].history, expected.history, strict=True):
            assert ours.metrics == pytest.approx(other.metrics, rel=near, abs=1e-7)
        for name, weight in expected.weights.items():
            distance = (found[index].weights[name] - weight).norm() / weight.norm()
            assert distance < near, f"{config.subset}, {config.weighting}: {name} differs by {distance:.1e} of its norm"

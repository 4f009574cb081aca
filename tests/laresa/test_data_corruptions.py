"""Corruptions of test images: what they do to pixels, and that every method measures the same of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from laresa import plugins
from laresa.config import TrialConfig
from laresa.data import Dataset, load
from laresa.data.corruptions import KINDS, PARAMETERS, VERSION, Corrupted, corrupt, corrupted_parts
from laresa.errors import DataError
from laresa.measurement import CORRUPTIONS, STRENGTHS, TOP1_CORRUPTED, corrupted
from laresa.methods.end_to_end import EndToEnd
from laresa.training import fit, train
from tests.laresa.checks import learned

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = [corrupted(kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return load("emoji120").test.images[:12]


def test_there_is_a_function_and_a_parameter_for_each():
    assert tuple(KINDS) == tuple(PARAMETERS) == CORRUPTIONS
    assert {len(parameters) for parameters in PARAMETERS.values()} == {len(STRENGTHS)}


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_stronger_changes_more_and_pictures_stay_pictures(images: Tensor, kind: str, size: int):
    images = torch.nn.functional.interpolate(images[:4].float(), size, mode="bilinear").to(torch.uint8)
    before = images.clone()
    found = [corrupt(images, kind, strength) for strength in STRENGTHS]
    assert torch.equal(images, before)
    assert all(one.dtype == torch.uint8 and one.shape == images.shape for one in found)
    changed = [(one.float() - images.float()).abs().mean().item() for one in found]
    assert changed == sorted(set(changed))
    assert changed[0] > 0


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_image_is_corrupted_by_its_place_alone(images: Tensor, kind: str):
    """Whoever asks, in whatever batches; another image at another place is corrupted by chance of its own."""
    whole = corrupt(images, kind, 3)
    assert torch.equal(whole, corrupt(images.clone(), kind, 3))
    parts = Corrupted(images, kind, 3)
    assert torch.equal(whole, torch.cat([parts[:5], parts[5:7], parts[7:]]))
    assert torch.equal(whole[8], parts[8])
    same = corrupt(images[:1].expand(12, -1, -1, -1), kind, 3)
    assert (len(same.flatten(1).unique(dim=0)) > 1) == (kind in ("noise", "shift"))


def test_noise_of_another_kind_or_strength_is_drawn_anew():
    grey = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    weak, strong = (corrupt(grey, "noise", strength).float() - 128 for strength in (1, 2))
    assert weak.std() == pytest.approx(0.04 * 255, rel=0.03)
    assert strong.std() == pytest.approx(0.08 * 255, rel=0.03)
    assert abs(np.corrcoef(weak.flatten(), strong.flatten())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("noise", "b5b61782"), ("blur", "9261efdf"), ("contrast", "70e6c812"), ("shift", "477b1170")],
)
def test_pixels_are_pinned(kind: str, digest: str):
    """A change here changes every trial's numbers and asks for a new VERSION, else features of before are taken."""
    images = torch.arange(3 * 3 * 32 * 32).remainder(251).to(torch.uint8).reshape(3, 3, 32, 32)
    content = b"".join(corrupt(images, kind, strength).numpy().tobytes() for strength in STRENGTHS)
    assert (VERSION, hashlib.sha256(content).hexdigest()[:8]) == (1, digest)


def test_pixels_by_hand():
    """One white pixel: blurred it is the Gaussian's weight, shifted it lies elsewhere; contrast goes to the mean."""
    image = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    image[..., 10, 10] = 255
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * (0.0325 * 20) ** 2))
    weights /= weights.sum()
    expected = np.rint(255 * np.outer(weights, weights))
    assert np.array_equal(corrupt(image, "blur", 5)[0, 0, 8:13, 8:13].numpy(), expected)
    moved = corrupt(image, "shift", 5)[0, 0].nonzero().tolist()
    assert len(moved) == 1
    assert {abs(place - 10) for place in moved[0]} == {4}
    half = torch.tensor([0, 200], dtype=torch.uint8).repeat(1, 3, 2, 1)
    assert corrupt(half, "contrast", 2)[0, 0, 0].tolist() == [50, 150]


def test_the_border_is_mirrored():
    image = torch.arange(10, dtype=torch.uint8).expand(1, 3, 10, 10)
    row = corrupt(image, "shift", 5)[0, 0, 0].tolist()
    assert row in ([2, 1, *range(8)], [*range(2, 10), 8, 7])


def test_other_images_are_refused(images: Tensor):
    with pytest.raises(DataError, match=r"takes uint8 \[N, 3, H, W\], not torch.float32"):
        corrupt(images.float(), "noise", 1)


# ---------------------------------------------------------------------- what a trial measures
def test_end_to_end_measures_each_and_their_mean_resumed_or_not(tiny: Dataset, config: TrialConfig, tmp_path: Path):
    config = config.replace(corruptions="all", subset="ce", epochs=3)
    undisturbed = fit(config, dataset=tiny)
    measured = {name: value for name, value in undisturbed.metrics.items() if name.startswith("corrupted/")}
    assert list(measured) == ALL
    assert undisturbed.metrics[TOP1_CORRUPTED] == pytest.approx(np.mean(list(measured.values())))
    plain = fit(config.replace(corruptions="none"), dataset=tiny)
    assert undisturbed.metrics.keys() - plain.metrics.keys() == {*ALL, TOP1_CORRUPTED}
    assert learned(plain)["weights"] == learned(undisturbed)["weights"]
    file = tmp_path / "checkpoint.safetensors"
    next(train(config, dataset=tiny, save_to=file))
    assert learned(fit(config, dataset=tiny, resume_from=file)) == learned(undisturbed)


def test_a_number_is_that_of_the_best_weights_on_those_images(tiny: Dataset, config: TrialConfig):
    trainer = EndToEnd(config.replace(corruptions="all", subset="ce", epochs=2), tiny, "cpu")
    while not trainer.finished:
        trainer.epoch()
    result = trainer.result()
    images = corrupted_parts(tiny.test.images)["noise", 2][:]
    with torch.no_grad():
        logits_NC, _ = trainer.predict(trainer.prepared(images))
    hits = (logits_NC.argmax(1) == tiny.test.labels).double().mean().item()
    assert result.metrics["corrupted/noise_2"] == pytest.approx(hits)


def test_a_loop_of_ones_own_measures_them_too(tiny: Dataset, config: TrialConfig, plugin):
    plugin(
        """
        import torch
        from laresa.methods.loop import Loop

        class Bright(Loop):
            def __init__(self, config, data, device):
                super().__init__(config, data, device)
                self.model = torch.nn.Linear(3, data.taxonomy.leaves)

            def train_epoch(self, number):
                return {"train/loss": 1.0}

            def predict(self, images):
                return self.model(images.mean((2, 3)))

        METHODS = {"bright": Bright}
        """
    )
    assert "bright" in plugins.table("METHODS")
    result = fit(config.replace(method="bright", subset="ce", epochs=1, corruptions="all"), dataset=tiny)
    assert set(ALL) | {TOP1_CORRUPTED} <= set(result.metrics)

"""Corruptions of test images: five kinds at strengths 1 to 5, after Hendrycks and Dietterich (ICLR 2019).

https://arxiv.org/abs/1903.12261, whose ImageNet-C and CIFAR-10-C have fixed parameters for 224 and for 32 px; here one
table serves all sizes. Chance comes from (kind, strength, place of the image in the test part) alone, and no image's
pixels depend on its neighbours in a batch: trials that share a test set are tested on the same corrupted images,
wherever they run (of jpeg as far as their libjpeg agrees).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from laresa.errors import DataError
from laresa.measurement import CORRUPTIONS, STRENGTHS

VERSION = 1  # of the functions: to be raised when they give other pixels, since kept features go by it
Pixels = NDArray[np.uint8]
Streams = Callable[[int], np.random.Generator]  # of the image at that place in the batch

# The parameter at strengths 1 to 5. Where an effect has a length it is a share of the image's side, so that a picture
# and its enlargement are corrupted alike; the others mean the same at every size.
PARAMETERS: dict[str, tuple[float, ...]] = {
    # Standard deviation in units of [0, 1]: from CIFAR-10-C's weakest (.04) to ImageNet-C's middle (.18); all of
    # ImageNet-C's (up to .38) would leave nothing of 32 px, where no neighbours average the noise out.
    "noise": (0.04, 0.08, 0.12, 0.16, 0.20),
    # Standard deviation as a share of the side: .4 to 1 px at 32 as CIFAR-10-C, 2.8 to 7.3 at 224 (ImageNet-C: 1 to 6).
    "blur": (0.0125, 0.0175, 0.0225, 0.0275, 0.0325),
    # What is left of the distance to the image's mean: CIFAR-10-C's.
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    # Quality: from CIFAR-10-C's (80 to 40) to ImageNet-C's (25 to 7); blocks have 8 px at every size, so that what is
    # mild at 224 px is not at 32.
    "jpeg": (65, 40, 25, 15, 8),
    # Share of the side, along both axes: training with crop has seen an eighth at most, so the last two are new to it.
    "shift": (0.04, 0.08, 0.12, 0.16, 0.20),
}


def corrupt(images: Tensor, kind: str, strength: int, first: int = 0) -> Tensor:
    """uint8 [N, 3, H, W] -> the same, on the CPU; the input stays as it is.

    kind, strength: of laresa.measurement's CORRUPTIONS and STRENGTHS. first: place of images[0] in the test part.
    DataError: images of another kind.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"corrupt takes uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}")

    def stream(place: int) -> np.random.Generator:
        return np.random.default_rng([first + place, strength, *kind.encode()])

    found = KINDS[kind](images.cpu().numpy(), PARAMETERS[kind][strength - 1], stream)
    return torch.from_numpy(found)


class Corrupted:
    """The test images under one corruption, made when they are asked for: 25 times a test part may fit no memory."""

    def __init__(self, images: Tensor, kind: str, strength: int) -> None:
        self.images, self.kind, self.strength = images, kind, strength

    def __len__(self) -> int:
        return len(self.images)

    def identity(self, place: int) -> tuple[int, str, int, float, int]:
        """All that makes the image there of the clean one."""
        return VERSION, self.kind, self.strength, PARAMETERS[self.kind][self.strength - 1], place

    def __getitem__(self, place: int | slice) -> Tensor:
        """One image, or some that follow each other."""
        if isinstance(place, int):
            return self[place : place + 1][0]
        return corrupt(self.images[place], self.kind, self.strength, place.start or 0)


def corrupted_parts(images: Tensor) -> dict[tuple[str, int], Corrupted]:
    """All 25 corruptions of the test images, by kind and strength."""
    return {(kind, strength): Corrupted(images, kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS}


# ---------------------------------------------------------------------- the kinds
def noise(images: Pixels, sigma: float, stream: Streams) -> Pixels:
    """Gaussian, each pixel and channel its own; sigma in units of [0, 1]."""
    drawn = [stream(place).standard_normal(images.shape[1:], np.float32) for place in range(len(images))]
    return _pixels(np.stack(drawn) * np.float32(255 * sigma) + images)


def blur(images: Pixels, share: float, stream: Streams) -> Pixels:
    """Gaussian of standard deviation share * the shorter side, cut at three of them; the border mirrored."""
    sigma = share * min(images.shape[2:])
    return _pixels(gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma), mode="mirror", truncate=3.0))


def contrast(images: Pixels, kept: float, stream: Streams) -> Pixels:
    """Each channel drawn towards its mean over the image; kept: of the distance to it."""
    mean = images.mean((2, 3), dtype=np.float64, keepdims=True).astype(np.float32)
    return _pixels((images - mean) * np.float32(kept) + mean)


def jpeg(images: Pixels, quality: float, stream: Streams) -> Pixels:
    """Written and read by Pillow, colours at half the resolution as is its default."""
    return np.stack([_jpeg(image, int(quality)) for image in images])


def _jpeg(image: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def shift(images: Pixels, share: float, stream: Streams) -> Pixels:
    """Moved by share of the side along both axes, each way at random, in whole pixels; the border mirrored."""
    signs_N2 = np.array([2 * stream(place).integers(2, size=2) - 1 for place in range(len(images))])
    y_NH, x_NW = (
        _mirrored(np.arange(side) + round(share * side) * signs_N2[:, axis, None], side)
        for axis, side in enumerate(images.shape[2:])
    )
    image_N, channel_C = np.arange(len(images)), np.arange(images.shape[1])
    return images[
        image_N[:, None, None, None], channel_C[None, :, None, None], y_NH[:, None, :, None], x_NW[:, None, None, :]
    ]


KINDS: dict[str, Callable[[Pixels, float, Streams], Pixels]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "jpeg": jpeg,
    "shift": shift,
}


def _mirrored(place: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Places beyond the border as those within that mirror them, the border's own pixel not twice."""
    last = side - 1
    return last - np.abs(last - np.abs(place))


def _pixels(values: NDArray[np.float32]) -> Pixels:
    """Rounded and cut to [0, 255], in place."""
    return np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8)

"""Augmentation of whole batches, uint8 in and out, on any device, each draw from the generator that is given.

A batch is augmented by a few tensor operations instead of a Python call an image: one core feeds a small network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from laresa.config import AUGMENTATIONS
from laresa.errors import DataError, nearest


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """uint8 [N, 3, H, W], each image changed on its own.

    names: a subset of ("autoaugment", "resizedcrop", "crop", "flip"), applied in this order whatever theirs.
    generator: on any device; it alone decides the outcome.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise DataError(f"unknown augmentation {name!r}{nearest(name, AUGMENTATIONS)}")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"augment takes uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}")
    if "crop" in names or "flip" in names:
        images = crop_flip(images, generator, crop="crop" in names, flip="flip" in names)
    return images


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 [N, 3, H, W]: (images / 255 - mean) / std by channel, in one multiplication and one addition."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=images.device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(1, -1, 1, 1)
    return images.to(torch.float32).mul_(scale).add_(shift)


def crop_flip(images: Tensor, generator: torch.Generator, *, crop: bool = True, flip: bool = True) -> Tensor:
    """RandomCrop(H, padding=H / 8) with zeros (4 pixels at 32, as LARESA's App. A); half of the images flipped.

    Offsets are uniform over the 2 * padding + 1 places of each axis, as torchvision's.
    """
    count, channels, height, width = images.shape
    image_N = torch.arange(count, device=images.device)
    if flip:  # the flipped images stand behind the others: to flip is to choose from the second half
        images = torch.cat([images, images.flip(-1)])
        image_N = image_N + count * _randint(2, count, generator, images.device)
    if not crop:
        return images.index_select(0, image_N)
    pad_y, pad_x = max(1, round(height / 8)), max(1, round(width / 8))
    top_N, left_N = (_randint(2 * pad + 1, count, generator, images.device) for pad in (pad_y, pad_x))
    images = nn.functional.pad(images, (pad_x, pad_x, pad_y, pad_y))
    # Every row of every crop is a run of `width` bytes: selecting runs copies memory, several times as fast as a gather
    # of pixels.
    padded_height, padded_width = images.shape[2:]
    plane_NC = image_N[:, None] * channels + torch.arange(channels, device=images.device)
    row_NCH = plane_NC[..., None] * padded_height + top_N[:, None, None] + torch.arange(height, device=images.device)
    start_NCH = row_NCH * padded_width + left_N[:, None, None]
    runs = images.flatten().unfold(0, width, 1)  # a view: the run that starts at each byte
    return runs.index_select(0, start_NCH.flatten()).view(count, channels, height, width)


def _randint(high: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Drawn on the generator's device, used on the images': one CPU generator gives one outcome on any device."""
    return torch.randint(high, (count,), generator=generator, device=generator.device).to(device)

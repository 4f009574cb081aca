"""Augmentation of whole batches, uint8 in and out, on any device, each draw from the generator that is given.

A batch is augmented by a few tensor operations instead of a Python call an image: one core feeds a small network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from laresa.data.autoaugment import autoaugment as autoaugment_batch
from laresa.errors import ConfigError, DataError
from laresa.plugins import component, table


def augment(
    images: Tensor,
    y_N: Tensor,
    fields: Mapping[str, Mapping[str, Any]],
    generator: torch.Generator,
    *,
    classes: int,
) -> tuple[Tensor, Tensor | None]:
    """(images, target_NC): uint8 [N, 3, H, W] in, each image changed on its own; target_NC None unless some were mixed.

    fields: name of AUGMENTATIONS -> its fields; applied in the order of that table, whatever theirs.
    generator: on any device; it alone decides the outcome.
    DataError, ConfigError: images of another kind, an unknown name, an augmentation that gave another shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"augment takes uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}")
    for name in fields:
        component("AUGMENTATIONS", name)
    target_NC: Tensor | None = None
    fresh = False  # whether `images` is nobody else's
    for name, function in table("AUGMENTATIONS").items():
        if name not in fields or (name == "flip" and "crop" in fields):
            continue
        if name == "crop" and "flip" in fields:
            images = crop_flip(images, generator)  # both at once is twice as fast
            continue
        if function is flip and fresh:
            images = crop_flip(images, generator, crop=False, in_place=True)
            continue
        found = function(images, y_N, generator, **fields[name])
        changed, mixed = found if isinstance(found, tuple) else (found, None)
        _check(name, changed, images, mixed, classes)
        images, fresh = changed, function in (autoaugment, resizedcrop)
        if mixed is not None:
            if target_NC is not None:
                raise ConfigError(f"augmentation {name!r} mixes images that another has mixed already: use one of them")
            target_NC = nn.functional.pad(mixed, (0, classes - mixed.shape[1]))
    return images, target_NC


def _check(name: str, changed: Any, images: Tensor, mixed: Any, classes: int) -> None:
    if not isinstance(changed, Tensor) or len(changed) != len(images) or changed.shape[1] != 3:
        shape = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise ConfigError(f"augmentation {name!r} gave {shape}: expected images [{len(images)}, 3, H, W]")
    if mixed is not None and (mixed.ndim != 2 or len(mixed) != len(images) or mixed.shape[1] > classes):
        raise ConfigError(
            f"augmentation {name!r} gave targets {tuple(mixed.shape)}: expected [{len(images)}, {classes}]"
        )


def autoaugment(images: Tensor, y_N: Tensor, generator: torch.Generator) -> Tensor:
    """Cubuk et al., CVPR 2019, https://arxiv.org/abs/1805.09501."""
    return autoaugment_batch(images, generator)


def resizedcrop(images: Tensor, y_N: Tensor, generator: torch.Generator) -> Tensor:
    """`resized_crop`."""
    return resized_crop(images, generator)


def crop(images: Tensor, y_N: Tensor, generator: torch.Generator) -> Tensor:
    """`crop_flip` without the flip."""
    return crop_flip(images, generator, flip=False)


def flip(images: Tensor, y_N: Tensor, generator: torch.Generator) -> Tensor:
    """`crop_flip` without the crop."""
    return crop_flip(images, generator, crop=False)


CACHED = 2**20  # numbers that a core's cache holds between three operations on them

AUGMENTATIONS = {"autoaugment": autoaugment, "resizedcrop": resizedcrop, "crop": crop, "flip": flip}


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 [N, 3, H, W]: (images / 255 - mean) / std by channel, in one multiplication and one addition."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=images.device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(1, -1, 1, 1)
    if images.device.type != "cpu":
        return images.to(torch.float32).mul_(scale).add_(shift)
    found = torch.empty(images.shape, dtype=torch.float32)
    few = max(1, CACHED // images[0].numel()) if len(images) else 1
    for part, whole in zip(torch.split(found, few), torch.split(images, few), strict=True):
        part.copy_(whole).mul_(scale).add_(shift)
    return found


def crop_flip(
    images: Tensor, generator: torch.Generator, *, crop: bool = True, flip: bool = True, in_place: bool = False
) -> Tensor:
    """RandomCrop(H, padding=H / 8) with zeros (4 pixels at 32, as LARESA's App. A); half of the images flipped.

    Offsets are uniform over the 2 * padding + 1 places of each axis, as torchvision's. in_place: a flip alone changes
    `images` itself.
    """
    count, channels, height, width = images.shape
    flipped_N = _randint(2, count, generator, images.device) if flip else torch.zeros_like(images[:, 0, 0, 0]).long()
    if not crop:
        index = flipped_N.nonzero().flatten()
        found = images if in_place else images.clone()
        return found.index_copy_(0, index, images.index_select(0, index).flip(-1))
    image_N = torch.arange(count, device=images.device)
    if flip:  # the flipped images stand behind the others: to flip is to choose from the second half
        images = torch.cat([images, images.flip(-1)])
        image_N = image_N + count * flipped_N
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


def resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """RandomResizedCrop to the images' own size: 8 to 100% of the area, aspect 3/4 to 4/3 (torchvision's defaults).

    Bilinear; as boxes are no larger than the image, nothing is made smaller and antialiasing has nothing to do.
    """
    count, _, height, width = images.shape
    top, left, box_height, box_width = random_boxes(count, height, width, generator).to(images.device).unbind(1)
    y_NH = _sample_points(height, top, box_height)
    x_NW = _sample_points(width, left, box_width)
    shape = (count, height, width)
    x_NHW, y_NHW = x_NW[:, None, :].expand(shape), y_NH[:, :, None].expand(shape)
    # grid_sample counts in [-1, 1] from edge to edge
    grid_NHW2 = torch.stack([(2 * x_NHW + 1) / width - 1, (2 * y_NHW + 1) / height - 1], -1)
    sampled = nn.functional.grid_sample(images.float(), grid_NHW2, mode="bilinear", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


def random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """int64 [count, 4] of (top, left, height, width), on the generator's device.

    As torchvision: ten draws of area and aspect, the first that fits is taken; else the largest centred box within the
    aspect's limits.
    """
    device, tries = generator.device, 10
    area_NT = torch.empty(count, tries, device=device).uniform_(0.08, 1.0, generator=generator) * (height * width)
    bound = math.log(4 / 3)
    aspect_NT = torch.empty(count, tries, device=device).uniform_(-bound, bound, generator=generator).exp()
    sides_NT2 = torch.stack([(area_NT / aspect_NT).sqrt(), (area_NT * aspect_NT).sqrt()], -1).round().long()
    limit_2 = torch.tensor([height, width], device=device)
    fits_NT = ((sides_NT2 > 0) & (sides_NT2 <= limit_2)).all(-1)
    first_N = fits_NT.int().argmax(1)
    sides_N2 = sides_NT2[torch.arange(count, device=device), first_N]
    room_N2 = limit_2 - sides_N2
    corner_N2 = (torch.rand(count, 2, generator=generator, device=device) * (room_N2 + 1)).long().minimum(room_N2)
    largest_2 = torch.tensor([min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))], device=device)
    centred_4 = torch.cat([(limit_2 - largest_2) // 2, largest_2])
    return torch.where(fits_NT.any(1)[:, None], torch.cat([corner_N2, sides_N2], 1), centred_4)


def _sample_points(size: int, start_N: Tensor, length_N: Tensor) -> Tensor:
    """float32 [N, size]: pixel coordinates of `size` points over each box, none beyond its outer pixels' centres."""
    start_N1, length_N1 = start_N[:, None].float(), length_N[:, None].float()
    points = start_N1 + (torch.arange(size, device=start_N.device) + 0.5) * (length_N1 / size) - 0.5
    return points.maximum(start_N1).minimum(start_N1 + length_N1 - 1)


def _randint(high: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Drawn on the generator's device, used on the images': one CPU generator gives one outcome on any device."""
    return torch.randint(high, (count,), generator=generator, device=generator.device).to(device)

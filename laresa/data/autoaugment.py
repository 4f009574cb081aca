"""AutoAugment (Cubuk et al., CVPR 2019, arXiv 1805.09501) on a batch: each image its own sub-policy.

The policies are torchvision's tables; the operations give what torchvision's give, to the bit, called once for all
images of a batch that share one (operation, magnitude, sign) instead of once an image. What torchvision does slowly on
bytes in a CPU is done here: a warp is the same choice of pixels for every image, a table is looked up by bytes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms.v2 import functional as tv

LEVELS = 9  # magnitudes are numbered 0..9
SMALL = 32  # pixels

Step = tuple[str, float, int | None]  # operation, probability, magnitude (None: it has none)


def autoaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [N, 3, H, W]. The policy found on CIFAR-10 up to 32 pixels, ImageNet's above (the paper doesn't say which).

    Nearest-neighbour warps with black behind, as torchvision's default.
    """
    policies = _policies("CIFAR10" if max(images.shape[-2:]) <= SMALL else "IMAGENET")
    count = len(images)
    choice_N = torch.randint(len(policies), (count,), generator=generator, device=generator.device).tolist()
    chance_N2 = torch.rand(count, 2, generator=generator, device=generator.device).tolist()
    sign_N2 = torch.randint(2, (count, 2), generator=generator, device=generator.device).tolist()
    images = images.clone()
    for stage in (0, 1):
        groups: dict[tuple[str, float], list[int]] = defaultdict(list)
        for image in range(count):
            name, probability, magnitude = policies[choice_N[image]][stage]
            if chance_N2[image][stage] < probability:
                level = float(magnitude or 0)
                signed = -level if name in SIGNED and sign_N2[image][stage] else level
                groups[name, signed].append(image)
        for (name, level), members in groups.items():
            index = torch.tensor(members, device=images.device)
            images.index_copy_(0, index, OPERATIONS[name](images.index_select(0, index), level))
    return images


@lru_cache(maxsize=2)
def _policies(name: str) -> list[tuple[Step, Step]]:
    found: list[tuple[Step, Step]] = AutoAugment(AutoAugmentPolicy[name]).policies
    return found


def _shear(image: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(0.3 * level / LEVELS)) for level in (x, y)]
    warped: Tensor = tv.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])
    return warped


def _translate(image: Tensor, x: float, y: float) -> Tensor:
    pixels = [int(150 / 331 * side * level / LEVELS) for side, level in ((image.shape[-1], x), (image.shape[-2], y))]
    warped: Tensor = tv.affine(image, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])
    return warped


WARPS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ShearX": lambda image, level: _shear(image, level, 0.0),
    "ShearY": lambda image, level: _shear(image, 0.0, level),
    "TranslateX": lambda image, level: _translate(image, level, 0.0),
    "TranslateY": lambda image, level: _translate(image, 0.0, level),
    "Rotate": lambda image, level: tv.rotate(image, 30.0 * level / LEVELS),
}


def _warp(name: str, images: Tensor, level: float) -> Tensor:
    height, width = images.shape[-2:]
    source_P, inside_P = _pixels(name, level, height, width)
    flat = images.flatten(2)
    if images.device.type == "cpu":  # index_select is six times as slow there
        rows = flat.flatten(0, 1).numpy()
        chosen = torch.from_numpy(rows.take(source_P.numpy(), axis=1)).view(flat.shape)
    else:
        chosen = flat.index_select(2, source_P.to(images.device))
    return (chosen * inside_P.to(images.device)).view(images.shape)


@lru_cache(maxsize=64)
def _pixels(name: str, level: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """int64 and uint8 [H * W]: from which pixel each is taken (nearest neighbours), and 0 for those that are black."""
    number = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width)  # exact to 4096 x 4096
    taken_P = WARPS[name](number, level).flatten().long()
    return (taken_P - 1).clamp_(min=0), (taken_P > 0).to(torch.uint8)


def _solarize(images: Tensor, level: float) -> Tensor:
    above: Tensor = (images >= 255.0 * (1 - level / LEVELS)).to(torch.uint8) * 255
    return images ^ above


def _equalize(images: Tensor) -> Tensor:
    """By torchvision's (and PIL's) rule."""
    if images.device.type != "cpu":
        equal: Tensor = tv.equalize(images)
        return equal
    planes = images.flatten(0, 1).flatten(1)
    return torch.stack([torch.from_numpy(_looked_up(plane)) for plane in planes]).view(images.shape)


def _looked_up(plane: Tensor) -> NDArray[np.uint8]:
    counts = torch.bincount(plane, minlength=256).numpy()
    pixels = plane.numpy()
    last = counts[np.flatnonzero(counts)[-1]]
    step = (len(pixels) - last) // 255
    if step == 0:
        return pixels
    table = np.zeros(256, dtype=np.uint8)
    table[1:] = np.minimum((np.cumsum(counts)[:-1] + step // 2) // step, 255)
    return table.take(pixels)


def _sharpness(images: Tensor, level: float) -> Tensor:
    """3 x 3 means with weight 5 in the middle, by sums of whole numbers; the outermost pixels stay."""
    if min(images.shape[-2:]) <= 2:
        return images
    output, whole = images.float(), images.short()
    across = whole[..., :-2] + whole[..., 1:-1] + whole[..., 2:]
    total = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :] + 4 * whole[..., 1:-1, 1:-1]
    inner = output[..., 1:-1, 1:-1]
    inner.add_(total.float().div_(13.0).round_().sub_(inner), alpha=1.0 - _factor(level))
    return output.clamp_(0, 255).to(torch.uint8)


def _factor(level: float) -> float:
    return 1.0 + 0.9 * level / LEVELS


SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}

OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    **{name: partial(_warp, name) for name in WARPS},
    "Brightness": lambda images, level: tv.adjust_brightness(images, _factor(level)),
    "Color": lambda images, level: tv.adjust_saturation(images, _factor(level)),
    "Contrast": lambda images, level: tv.adjust_contrast(images, _factor(level)),
    "Sharpness": _sharpness,
    "Posterize": lambda images, level: tv.posterize(images, 8 - round(4 * level / LEVELS)),
    "Solarize": _solarize,
    "AutoContrast": lambda images, _: tv.autocontrast(images),
    "Equalize": lambda images, _: _equalize(images),
    "Invert": lambda images, _: tv.invert(images),
}

"""AutoAugment (Cubuk et al., CVPR 2019, arXiv 1805.09501) on a batch: each image its own sub-policy.

The policies are torchvision's tables; the operations are torchvision's, called once for all images of a batch that
share one (operation, magnitude, sign) instead of once an image.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache

import torch
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
            images[index] = OPERATIONS[name](images[index], level)
    return images


@lru_cache(maxsize=2)
def _policies(name: str) -> list[tuple[Step, Step]]:
    found: list[tuple[Step, Step]] = AutoAugment(AutoAugmentPolicy[name]).policies
    return found


def _shear(images: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(0.3 * level / LEVELS)) for level in (x, y)]
    warped: Tensor = tv.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])
    return warped


def _translate(images: Tensor, x: float, y: float) -> Tensor:
    pixels = [int(150 / 331 * side * level / LEVELS) for side, level in ((images.shape[-1], x), (images.shape[-2], y))]
    warped: Tensor = tv.affine(images, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])
    return warped


def _factor(level: float) -> float:
    return 1.0 + 0.9 * level / LEVELS


SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}

OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ShearX": lambda images, level: _shear(images, level, 0.0),
    "ShearY": lambda images, level: _shear(images, 0.0, level),
    "TranslateX": lambda images, level: _translate(images, level, 0.0),
    "TranslateY": lambda images, level: _translate(images, 0.0, level),
    "Rotate": lambda images, level: tv.rotate(images, 30.0 * level / LEVELS),
    "Brightness": lambda images, level: tv.adjust_brightness(images, _factor(level)),
    "Color": lambda images, level: tv.adjust_saturation(images, _factor(level)),
    "Contrast": lambda images, level: tv.adjust_contrast(images, _factor(level)),
    "Sharpness": lambda images, level: tv.adjust_sharpness(images, _factor(level)),
    "Posterize": lambda images, level: tv.posterize(images, 8 - round(4 * level / LEVELS)),
    "Solarize": lambda images, level: tv.solarize(images, 255.0 * (1 - level / LEVELS)),
    "AutoContrast": lambda images, _: tv.autocontrast(images),
    "Equalize": lambda images, _: tv.equalize(images),
    "Invert": lambda images, _: tv.invert(images),
}

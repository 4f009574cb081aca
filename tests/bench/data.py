"""Augmented images a second on one core: our batches against torchvision's PIL crop and flip."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from laresa.data.augment import augment, normalise
from tests.bench.timing import pairwise, row

COUNT, BATCH, HALF = 2048, 128, (0.5, 0.5, 0.5)


def augmentation() -> list[dict[str, object]]:
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy().astype(np.uint8)) for image in images]
    generator, y_N = torch.Generator().manual_seed(0), torch.zeros(BATCH, dtype=torch.int64)
    rows = []
    for names, extra in ((("crop", "flip"), []), (("autoaugment", "crop", "flip"), [transforms.AutoAugment()])):
        plain = transforms.Compose(
            [
                *extra,
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(HALF, HALF),
            ]
        )

        def ours(names=names) -> None:
            for batch in images.split(BATCH):
                changed, _ = augment(batch, y_N, {name: {} for name in names}, generator, classes=2)
                normalise(changed, HALF, HALF)

        def pil(plain=plain) -> None:
            for start in range(0, COUNT, BATCH):
                torch.stack([plain(picture) for picture in pictures[start : start + BATCH]])

        a, b, ratio = pairwise(ours, pil, 5)
        note = "32 px, one thread, to normalised float32; baseline: torchvision on PIL images. Higher is better"
        rows.append(row(f"augment {'+'.join(names)}", COUNT / a, "images/s", COUNT / b, 1 / ratio, note))
    return rows

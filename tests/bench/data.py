"""What feeds a network: augmented images, label embeddings, an epoch without the network, pixels that are shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from laresa.data.augment import augment, normalise
from tests.bench.timing import pairwise, row, threads

BATCH, HALF = 128, (0.5, 0.5, 0.5)
CIFAR = 50_000  # training images


def augmentation() -> list[dict[str, object]]:
    """Images a second on one core: our batches against torchvision's PIL pipeline."""
    torch.set_num_threads(1)
    small, large = ("crop", "flip"), ("flip",)
    auto = transforms.AutoAugment()
    return [
        _augmentation(32, 2048, small, []),
        _augmentation(32, 2048, ("autoaugment", *small), [auto]),
        _augmentation(224, 256, ("autoaugment", *large), [auto]),
    ]


def _pictures(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy().astype(np.uint8)) for image in images]


def _augmentation(size: int, count: int, names: tuple[str, ...], extra: list[object]) -> dict[str, object]:
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    pictures, generator = _pictures(images), torch.Generator().manual_seed(0)
    crop = [transforms.RandomCrop(size, padding=size // 8)] if "crop" in names else []
    plain = transforms.Compose(
        [
            *extra,
            *crop,
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(HALF, HALF),
        ]
    )

    def ours() -> None:
        for batch in images.split(BATCH):
            y_N = torch.zeros(len(batch), dtype=torch.int64)
            changed, _ = augment(batch, y_N, {name: {} for name in names}, generator, classes=2)
            normalise(changed, HALF, HALF)

    def pil() -> None:
        for start in range(0, count, BATCH):
            torch.stack([plain(picture) for picture in pictures[start : start + BATCH]])

    a, b, ratio = pairwise(ours, pil, 5)
    note = f"{size} px, one thread, to normalised float32; baseline: torchvision on PIL images. Higher is better"
    return row(f"augment {'+'.join(names)} {size}", count / a, "images/s", count / b, 1 / ratio, note)


def labels() -> list[dict[str, object]]:
    """Seconds to embed so many label texts for the first time, the encoder loaded once before."""
    from laresa.labels import embed

    rows = []
    with tempfile.TemporaryDirectory() as folder, threads(os.cpu_count() or 1):
        os.environ["XDG_CACHE_HOME"] = folder
        embed(["a warm-up"])
        for count in (200, 1_000, 10_000):
            texts = [f"a species of bird, number {number}" for number in range(count)]
            started = time.perf_counter()
            embed(texts)
            taken = time.perf_counter() - started
            started = time.perf_counter()
            embed(texts)
            again = time.perf_counter() - started
            rows.append(
                row(f"embed {count} labels", taken, "s", None, None, f"encoder loaded anew; kept: {again:.3f} s")
            )
    return rows


def epoch() -> list[dict[str, object]]:
    """Seconds of an epoch on one core in which no network computes: order, augmentation, normalisation."""
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (CIFAR, 3, 32, 32), dtype=torch.uint8)
    sample = _pictures(images[:2048])
    plain = transforms.Compose(
        [
            transforms.AutoAugment(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    fields = {name: dict[str, object]() for name in ("autoaugment", "crop", "flip")}

    def ours() -> None:
        generator = torch.Generator().manual_seed(0)
        for index in torch.randperm(CIFAR, generator=generator).split(BATCH):
            y_N = torch.zeros(len(index), dtype=torch.int64)
            changed, _ = augment(images[index], y_N, fields, generator, classes=2)
            normalise(changed, (0.0,) * 3, (1.0,) * 3)

    a, b, ratio = pairwise(ours, lambda: [plain(picture) for picture in sample], 3)
    scale = CIFAR / len(sample)
    note = (
        "50,000 images of 32 px, LARESA's augmentation, one thread; baseline: torchvision, reckoned from 2,048 images"
    )
    return [row("epoch without its network", a, "s", b * scale, ratio / scale, note)]


READER = """
import json, sys
from pathlib import Path
import psutil, torch
from tests.bench.data import random_source
from laresa.data.cache import open_prepared, prepare
source = random_source()
data = open_prepared(source, prepare(source), fold=0, split_seed=42)
for split in (data.train, data.val, data.test):
    for start in range(0, len(split), 1024):
        split.images[start : start + 1024].sum(dtype=torch.int64)
print("ready", flush=True)
sys.stdin.readline()
maps = [found for found in psutil.Process().memory_maps() if found.path.endswith(".npy")]
print(json.dumps([sum(found.pss for found in maps) / 2**20, sum(found.rss for found in maps) / 2**20]), flush=True)
sys.stdin.readline()
"""


def random_source():
    """20,000 images of 64 pixels, 250 MB."""
    from laresa.data.cache import Source
    from laresa.taxonomy import Taxonomy

    tree = Taxonomy.from_groups({"all": ["a", "b"]})
    sizes = {"train": 16_000, "val": 2_000, "test": 2_000}

    def images(part: str, size: int):
        rng = np.random.default_rng(0)
        for _ in range(sizes.get(part, 0)):
            yield rng.integers(0, 256, (3, size, size), dtype=np.uint8)

    y = {part: np.arange(count) % 2 for part, count in sizes.items()}
    return Source("random", tree, y, images, "1", 64)


def pixels() -> list[dict[str, object]]:
    """Memory that four trials on a node hold for one data set, all of whose pixels each has read."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        command = [sys.executable, "-c", READER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
        readers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(4)]
        try:
            for reader in readers:
                assert reader.stdout.readline() == "ready\n"
            told = []
            for reader in readers:  # all are asked before the first may end
                reader.stdin.write("\n")
                reader.stdin.flush()
                told.append(json.loads(reader.stdout.readline()))
        finally:
            for reader in readers:
                reader.kill()
    shared, each = sum(pss for pss, _ in told), sum(rss for _, rss in told)
    one = 20_000 * 3 * 64**2 / 2**20
    note = (
        f"MiB, of {one:.0f} MiB of pixels, shared pages counted once; baseline: what the four see, each page each time"
    )
    return [row("pixels of four trials", shared, "MiB", each, shared / each, note)]

"""From images to rows: each different image once, in batches of one shape."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from laresa.data.augment import normalise
from laresa.data.corruptions import Corrupted
from laresa.errors import ConfigError
from laresa.features import backbone
from laresa.features.backbone import Backbone
from laresa.features.store import DIGEST, Rows, Store

# Of the CPU small: the activations of a batch stay in its caches (16 images of 128 px a third faster than 64).
BATCH = {"cpu": 16, "cuda": 128}
KEEP_SECONDS = 5.0  # what a kill may cost; writing every batch through to the disk would slow an accelerator

Digests = list[bytes]
Images = Tensor | Corrupted


def digests(images: Tensor) -> Digests:
    """Of each image's shape and pixels (uint8 [N, 3, H, W])."""
    shape = repr(tuple(images.shape[1:])).encode()
    return [hashlib.blake2b(image.tobytes(), key=shape, digest_size=DIGEST).digest() for image in images.numpy()]


def digests_corrupted(part: Corrupted, clean: Digests) -> Digests:
    """Of what each image is made of, the clean one's digest and the corruption: so that none is made to look it up."""
    identities = (repr(part.identity(place)).encode() for place in range(len(part)))
    return [
        hashlib.blake2b(identity, key=image, digest_size=DIGEST).digest()
        for identity, image in zip(identities, clean, strict=True)
    ]


def distinct(parts: Sequence[Digests]) -> Digests:
    """Each image once, in the order in which they come."""
    return list(dict.fromkeys(image for part in parts for image in part))


def spread(rows: Rows, parts: Sequence[Digests]) -> list[Tensor]:
    """float32 [N, F] of each part, from the rows of `distinct(parts)`."""
    place = {image: number for number, image in enumerate(distinct(parts))}
    return [torch.from_numpy(rows[[place[image] for image in part]].astype(np.float32)) for part in parts]


def fill(
    store: Store,
    network: Backbone,
    images: Sequence[Images],
    parts: Sequence[Digests],
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Extract what the store lacks and keep it, some seconds' work at a time. The store is the caller's alone."""
    wanted = distinct(parts)
    _, missing = store.read(wanted)
    if not missing:
        return
    model = backbone.load(network)
    weights = backbone.weights_hash(model)
    store.open(weights)
    where = {digest: (own, row) for own, part in zip(images, parts, strict=True) for row, digest in enumerate(part)}
    todo = [wanted[place] for place in missing]
    taken, rows = list[bytes](), list[Rows]()
    kept_at, done = time.monotonic(), len(wanted) - len(todo)
    for batch, features_NF in _batches(model, network, todo, where, torch.device(device)):
        taken, rows, done = taken + batch, [*rows, _kept(features_NF, store, network)], done + len(batch)
        if time.monotonic() - kept_at > KEEP_SECONDS or done == len(wanted):
            store.append(taken, np.concatenate(rows), weights)
            taken, rows, kept_at = [], [], time.monotonic()
        if progress is not None:
            progress(done, len(wanted))


def _batches(
    model: nn.Module,
    network: Backbone,
    todo: Digests,
    where: dict[bytes, tuple[Images, int]],
    device: torch.device,
) -> Iterator[tuple[Digests, Tensor]]:
    """(digests, features_NF on the CPU) of a batch.

    Every batch has the same shape, the last is filled up: kernels are chosen by shape, so that on a CPU an image's
    features don't depend on what else was missing (equal threads given).
    """
    size = BATCH.get(device.type, BATCH["cuda"])
    model = model.to(device).to(memory_format=torch.channels_last)  # twice as fast on a CPU with depthwise convolutions
    for start in range(0, len(todo), size):
        batch = todo[start : start + size]
        places = [where[image] for image in (batch * size)[:size]]
        pixels = torch.stack([images[row] for images, row in places]).to(device)
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            features_NF = model(transformed(pixels, network))[: len(batch)].float().cpu()
        yield batch, features_NF


def transformed(images: Tensor, network: Backbone) -> Tensor:
    """As the network sees them: resized (bicubic, antialiased), cut to [0, 255], normalised."""
    pixels = images.float()
    if images.shape[-2:] != (network.size, network.size):
        size = (network.size, network.size)
        pixels = nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp_(0, 255)
    return normalise(pixels, network.mean, network.std)


def _kept(features_NF: Tensor, store: Store, network: Backbone) -> Rows:
    """In the type they are kept in. ConfigError: a value that it can't hold."""
    with np.errstate(over="ignore"):  # told below, with what to do
        rows = features_NF.numpy().astype(store.dtype)
    if not np.isfinite(rows).all():
        raise ConfigError(
            f"backbone={network.model!r} gives features that are not finite as {store.dtype.name}: expected finite "
            "numbers; heads.feature_dtype=float32 holds greater ones"
        )
    return rows

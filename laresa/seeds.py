"""Random streams: every draw of a trial comes from (seed, epoch, use), so that no generator state needs keeping."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(seed: int, epoch: int, stream: str) -> int:
    """An independent 63-bit seed for one epoch and one use of randomness."""
    words = np.random.SeedSequence([seed, epoch, *stream.encode()]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def generator(device: str | torch.device, seed: int, epoch: int, stream: str) -> torch.Generator:
    """A generator on `device` for one epoch and one use."""
    return torch.Generator(device).manual_seed(derive_seed(seed, epoch, stream))


def seed_everything(seed: int) -> None:
    """LARESA, App. A: random, numpy, torch on CPU and CUDA, deterministic kernels where they exist."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Its debugging aid, filling every fresh tensor, costs a tenth of a small network's step and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of torch's, inside: sums depend on how many share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

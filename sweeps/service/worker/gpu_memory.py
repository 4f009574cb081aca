"""Trials that share a GPU: whether there is room before one begins, and what it really took.

How much of a GPU each may take was decided before (planning.gpus). What a trial took stands on its run (tag
laresa.gpu_memory_gib), for those after it. One that runs out of memory beside others is trained alone on a whole GPU
(see tune.run_trials).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GIB = 2**30
ROOM_SECONDS = 60.0  # how long a trial waits for a predecessor's memory to come free


def wait_for_room(device: torch.device, needed: float | None, free: Callable[[torch.device], float]) -> None:
    """Before a trial of `needed` GiB begins. torch.OutOfMemoryError where the room does not come free in time."""
    import torch

    if needed is None or device.type != "cuda":
        return
    deadline = time.monotonic() + ROOM_SECONDS
    while (there := free(device)) < needed:
        if time.monotonic() > deadline:
            raise torch.OutOfMemoryError(f"{there:.1f} GiB are free on {device}, the trial was said to need {needed:g}")
        time.sleep(1.0)


def free_gib(device: torch.device) -> float:
    """Memory that no process holds, and what this one has cached."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / GIB


def forget_peak(device: torch.device) -> None:
    """Before a trial: what its predecessor in this process left in the cache is no need of its own."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """The most this process held since `forget_peak`; None on another device."""
    import torch

    return torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else None


def out_of_memory(error: Exception) -> bool:
    """Of a device, or of this host as torch's allocator tells it."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)

"""Trials that share a GPU: how much of it each may take, and whether there is room before one begins.

Ray counts fractions of a GPU but does not see its memory. A stated need becomes a fraction of the smallest GPU; before
a trial begins on a GPU, the memory must be free; what it really took stands on its run (tag laresa.gpu_memory_gib). A
trial that runs out of memory beside others is trained alone on a whole GPU (see tuning.run_trials).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from laresa.errors import ConfigError
from sweeps.service.study import RunOptions

if TYPE_CHECKING:
    import torch

GIB = 2**30
ROOM_SECONDS = 60.0  # how long a trial waits for a predecessor's memory to come free
CONTEXT_GIB = 0.5  # what CUDA itself takes in each process, beside the tensors


def packed(options: RunOptions) -> RunOptions:
    """The options with --gpu-memory-per-trial turned into --gpus-per-trial, by the smallest GPU there is."""
    if options.gpu_memory_per_trial is None:
        return options
    total = smallest_gpu()
    if total is None:
        raise ConfigError(
            "--gpu-memory-per-trial: no host that is up has a GPU to measure; give --gpus-per-trial, or start one first"
        )
    return dataclasses.replace(options, gpus_per_trial=share(options.gpu_memory_per_trial, total))


def share(needed: float, total: float) -> float:
    """The fraction of a GPU of `total` GiB for a trial of `needed` GiB, rounded up to a hundredth."""
    if needed + CONTEXT_GIB > total:
        raise ConfigError(f"--gpu-memory-per-trial {needed:g}: the smallest GPU has {total:.1f} GiB in all")
    return math.ceil(100 * (needed + CONTEXT_GIB) / total) / 100


def smallest_gpu() -> float | None:
    """GiB of the smallest GPU among the hosts of the connected Ray; None where none has one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    asking = ray.remote(num_cpus=0, num_gpus=0.01)(_memory_here)
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    answers = ray.get([asking.options(scheduling_strategy=strategy).remote() for strategy in strategies])
    return min((answer for answer in answers if answer is not None), default=None)


def _memory_here() -> float | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None


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
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """The most this process held since `forget_peak`; None on another device."""
    import torch

    return torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else None

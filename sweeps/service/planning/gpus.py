"""How much of a GPU a trial gets: what --gpus-per-trial auto and --gpu-memory-per-trial become, here and on a cluster.

Ray counts fractions of a GPU but does not see its memory: a need, stated or measured, becomes a fraction of the
smallest GPU there is.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from laresa.errors import ConfigError
from sweeps.service.planning.estimate import COST, measured_memory
from sweeps.service.study import RunOptions, Study

log = logging.getLogger("laresa.gpus")
GIB = 2**30
CONTEXT_GIB = 0.5  # what CUDA itself takes in each process, beside the tensors
HEAD_ROOM = 1.2  # over the greatest peak that was measured: allocators fragment, and seeds differ
ANSWER_SECONDS = 30.0  # for hosts to tell their GPU's memory: one whose GPUs others hold whole does not
JOIN_SECONDS = 60.0  # for a first host to join that could train


@dataclass(frozen=True)
class Gpus:
    """What there is to train on. cpus: of the hosts that have GPUs. smallest: asks for the GiB of the smallest GPU.

    could_train: a host is up that a trial fits on, were it on the CPU.
    """

    count: float
    cpus: float
    smallest: Callable[[], float | None]
    could_train: bool = True


def decided(
    options: RunOptions, study: Study, uri: str | None, look: Callable[[RunOptions], Gpus]
) -> tuple[RunOptions, str]:
    """(options with gpus_per_trial as a number, the device in words).

    auto: a GPU each where there are some, or a share by the memory that trials alike took (uri: the tracking store);
    the CPU where there are none. look: `of_cluster` or `of_this_machine`. ConfigError where nothing is up to look at,
    or a stated need does not fit.
    """
    if options.gpus_per_trial is not None:
        return options, described(options.gpus_per_trial)
    there, stated = look(options), options.gpu_memory_per_trial
    if not there.count:
        return _without_gpu(options, there)
    peak = _peak_of(study, uri) if stated is None else None
    need = stated if peak is None else peak * HEAD_ROOM
    total = None if need is None else there.smallest()
    if total is None and stated is not None:
        raise ConfigError(f"--gpu-memory-per-trial {stated:g}: no GPU told its memory; give --gpus-per-trial")
    if need is None or total is None or (stated is None and need + CONTEXT_GIB > total):
        return replace(options, gpus_per_trial=1.0), described(1.0)
    gpus = max(share(need, total), spread(options, study.size, there))
    known = f"{need:g} GiB as stated" if peak is None else f"measured {peak:.1f} GiB"
    return replace(options, gpus_per_trial=gpus, gpu_memory_per_trial=need), f"{described(gpus)} ({known})"


def on_cluster(options: RunOptions, study: Study, uri: str) -> RunOptions:
    """The options with gpus_per_trial decided by the connected Ray; a warning where hosts with GPUs may come yet."""
    found, device = decided(options, study, uri, of_cluster)
    if options.gpus_per_trial is None and not found.gpus and (address := cluster_address()) is not None:
        log.warning("device: %s, in the cluster at %s; --gpus-per-trial 1 waits for a host with one", device, address)
    return found


def _without_gpu(options: RunOptions, there: Gpus) -> tuple[RunOptions, str]:
    if options.gpu_memory_per_trial is not None:
        raise ConfigError(
            f"--gpu-memory-per-trial {options.gpu_memory_per_trial:g}: no host that is up has a GPU to measure; "
            "give --gpus-per-trial, or start one first"
        )
    if not there.could_train:
        raise ConfigError(
            "--gpus-per-trial auto: no host that could train is up, so whether they have GPUs can't be seen: "
            "give 1 to ask the autoscaler for a GPU each, 0 to train on CPUs, or wait for hosts (`ray status`)"
        )
    return replace(options, gpus_per_trial=0.0), "cpu: no GPU here"


def described(gpus: float) -> str:
    """The device of trials that ask for so much of a GPU."""
    if not gpus:
        return "cpu"
    return "cuda, one trial a GPU" if gpus == 1 else f"cuda, {gpus:g} GPU each"


def _peak_of(study: Study, uri: str | None) -> float | None:
    """The greatest GiB that trials alike took; None where a part of the study is like nothing that was measured."""
    if any(name in COST for search in study.searches for name in search.space):
        return None
    return measured_memory([*(t.config for t in study.trials()), *(s.base for s in study.searches)], uri)


def share(needed: float, total: float) -> float:
    """The fraction of a GPU of `total` GiB for a trial of `needed` GiB, rounded up to a hundredth."""
    if needed + CONTEXT_GIB > total:
        raise ConfigError(f"--gpu-memory-per-trial {needed:g}: the smallest GPU has {total:.1f} GiB in all")
    return math.ceil(100 * (needed + CONTEXT_GIB) / total) / 100


def spread(options: RunOptions, trials: int, there: Gpus) -> float:
    """The fraction at which as many trials as run at once lie on all GPUs: Ray fills one before it begins the next."""
    at_once = min(there.cpus / options.cpus_per_trial, trials, options.concurrency or math.inf)
    return math.floor(1e4 / max(1, math.ceil(at_once / there.count))) / 1e4


# ---------------------------------------------------------------------- looking


def of_cluster(options: RunOptions) -> Gpus:
    """Of the connected Ray, by the hosts that are up; the first that could train is waited for, a while."""
    import ray

    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        having = [found for found in resources if found.get("GPU")]
        could_train = any(found.get("CPU", 0.0) >= options.cpus_per_trial for found in resources)
        if having or could_train or time.monotonic() > deadline:
            break
        time.sleep(1.0)
    count, cpus = (sum(found.get(name, 0.0) for found in having) for name in ("GPU", "CPU"))
    return Gpus(count, cpus, smallest_gpu, could_train)


def of_this_machine(options: RunOptions) -> Gpus:
    """Of this process, without Ray."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Gpus(float(count), float(os.cpu_count() or 1), lambda: min(map(_memory_of, range(count))))


def cluster_address() -> str | None:
    """Of the Ray that a sweep would join from here; None where it would start its own.

    RAY_ADDRESS, or what `ray start` noted on this host if this user typed it: everybody may write to Ray's folder.
    """
    from ray._common.utils import get_ray_address_file

    given = os.environ.get("RAY_ADDRESS")
    if given and given != "auto":
        return None if given == "local" else given
    try:
        file = os.open(get_ray_address_file(None), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        noted = ""
    else:
        with os.fdopen(file) as opened:
            noted = opened.read().strip() if os.fstat(file).st_uid == os.getuid() else ""
    if given and not noted:
        raise ConfigError("RAY_ADDRESS=auto: this user has started no Ray here; expected HOST:PORT of one, or `local`")
    return noted or None


def smallest_gpu() -> float | None:
    """GiB of the smallest GPU among the hosts of the connected Ray that answer; None where none does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    asking = ray.remote(num_cpus=0, num_gpus=0.01)(_memory_here)
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [asking.options(scheduling_strategy=strategy).remote() for strategy in strategies]
    answered, waiting = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)
    for unanswered in waiting:
        ray.cancel(unanswered)
    return min((answer for answer in ray.get(answered) if answer is not None), default=None)


def _memory_here() -> float | None:
    import torch

    return _memory_of(0) if torch.cuda.is_available() else None


def _memory_of(device: Any) -> float:
    import torch

    return float(torch.cuda.get_device_properties(device).total_memory) / GIB

"""The Ray that trains: joined or started, and left."""

from __future__ import annotations

import contextlib
import logging
import os

import psutil

from laresa.errors import LaresaError
from sweeps.service.driver.private_ray import PrivateRay
from sweeps.service.planning.gpus import cluster_address
from sweeps.service.study import RunOptions

WORKERS_END_SECONDS = 5.0  # then they are killed: what they keep is in storage, and the driver tells the tracker
_own: list[PrivateRay] = []  # which this process has started


def connect() -> None:
    """Join the Ray that `cluster_address` names; else start one here, which nobody else can join.

    Not address="auto": that scans the machine's processes, and would join another user's Ray.
    """
    import ray

    if ray.is_initialized():
        return
    # Of the worker for each core that Ray would start at once Tune uses none: its own have another environment.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    address = cluster_address()
    try:
        if address is None:
            _own.append(PrivateRay())
            _own[-1].start(**options)
        else:
            ray.init(address, **options)
    except ConnectionError as error:
        # One runs, and refuses or is gone: starting another here would train on the wrong machine, unseen.
        raise LaresaError(
            f"the Ray cluster can't be joined ({' '.join(str(error).split())}): is it up, and the token right? "
            "`ray stop` forgets a dead one, RAY_ADDRESS=local trains on this machine alone"
        ) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise LaresaError(f"{' '.join(str(error).split())}: run laresa in the environment of that Ray") from error


def places(options: RunOptions) -> int:
    """How many groups of trials this sweep trains at the same time on the connected Ray, as it is now."""
    return options.concurrency or fitting(options)


def fitting(options: RunOptions) -> int:
    """How many fill the connected Ray; one at least."""
    import ray

    there = ray.cluster_resources()
    asked = {"CPU": options.cpus_per_trial, "GPU": options.gpus}
    return max(1, min(int(there.get(name, 0) / count + 1e-9) for name, count in asked.items() if count))


def disconnect() -> None:
    """Leave Ray. Workers of a Ray that began here have ended, too: none tells the tracker more after it is settled."""
    import ray

    workers = _workers()
    ray.shutdown()
    for left in psutil.wait_procs(workers, timeout=WORKERS_END_SECONDS)[1]:
        with contextlib.suppress(psutil.Error):
            left.kill()
    psutil.wait_procs(workers, timeout=WORKERS_END_SECONDS)
    while _own:
        _own.pop().end()


def _workers() -> list[psutil.Process]:
    """The children of each raylet that this process started."""
    found = list[psutil.Process]()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if child.name() == "raylet":
                found += child.children()
    return found

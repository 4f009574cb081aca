"""The hosts of a cluster, before the first trial: do all of them see the sweep's storage, and the same time?"""

from __future__ import annotations

import logging
import platform
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from laresa.errors import StorageError
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.open import sweep_at
from sweeps.service.storage.shared_folder import home

log = logging.getLogger("laresa.nodes")
PATIENCE = 5.0  # seconds that a network file system may take to show a new file
ANSWER = 60.0  # seconds for every host to answer; a busy one has to start a worker first
CLOCKS_APART = 5.0  # seconds


@dataclass(frozen=True)
class Host:
    """What a host said of itself. ahead: seconds of its clock before the driver's, known up to the time asking took.

    why: it does not see the storage, where more is known.
    """

    name: str
    sees: bool
    ahead: float
    asking: float
    why: str = ""


def require_shared_storage(folder: SweepFolder) -> None:
    """StorageError where a host of the connected Ray does not see the folder; a warning where clocks differ.

    A trial there would write its checkpoints to a folder of its own, and whoever took over would begin again.
    """
    import ray

    for host, reason in kept_away(home()).items():
        log.warning("%s did not join the cluster: %s", host, reason)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    marker = f".seen-{uuid.uuid4().hex}"
    folder.write(marker, {})
    try:
        hosts = probe_nodes([node["NodeID"] for node in nodes], folder.place, marker)
    finally:
        folder.files.delete(folder.root / marker)
    require_shared(folder.place, hosts)


def kept_away(shared: Path) -> dict[str, str]:
    """host -> why cluster/node.sh could not make it a node."""
    return {path.name: " ".join(path.read_text().split()) for path in sorted(shared.glob("nodes/*"))}


def probe_nodes(nodes: list[str], place: str, marker: str) -> list[Host]:
    """What each node says of a file in the sweep's folder; one that gives no answer is left to Ray to find dead."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = ray.remote(num_cpus=0, max_retries=0)(probe_storage)
    waiting = [
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(place, marker)
        for node in nodes
    ]
    began, hosts = time.time(), list[Host]()
    while waiting and time.time() - began < ANSWER:
        answered, waiting = ray.wait(waiting, timeout=1.0)
        for answer in answered:
            now = time.time()
            try:
                name, why, clock = ray.get(answer)
            except ray.exceptions.RayError as error:
                log.warning("a host did not answer (%s)", type(error).__name__)
                continue
            hosts.append(Host(name, why is None, clock - now, now - began, why or ""))
    if waiting:
        log.warning("%d of %d hosts did not answer within %.0f s", len(waiting), len(nodes), ANSWER)
    return hosts


def probe_storage(place: str, marker: str) -> tuple[str, str | None, float]:
    """On a host: (its name, why it does not see the file or None if it does, its time)."""
    deadline, folder = time.monotonic() + PATIENCE, sweep_at(place)
    try:
        while not (sees := folder.has(marker)) and time.monotonic() < deadline:
            time.sleep(0.2)
    except StorageError as error:
        return platform.node(), str(error), time.time()
    return platform.node(), None if sees else "", time.time()


def require_shared(place: str, hosts: list[Host]) -> None:
    """StorageError where a host does not see the place; a warning for a clock that is off."""
    blind = sorted({host.name for host in hosts if not host.sees})
    if blind:
        why = "; ".join(sorted({f"{host.name}: {host.why}" for host in hosts if host.why}))
        raise StorageError(
            f"storage {place} is not shared: {', '.join(blind)} can't see it. Give --storage a folder that every host "
            f"mounts, or a bucket that each can use (s3://, gs://): see cluster/README.md{why and f' ({why})'}"
        )
    for host in hosts:
        # The answer was on its way for some part of the time that asking took.
        if host.ahead > CLOCKS_APART or -host.ahead - host.asking > CLOCKS_APART:
            log.warning("the clock of %s is %+.0f s off: times in MLflow will look odd", host.name, host.ahead)

"""The hosts of a cluster, before the first trial: do all of them see the sweep's storage, and the same time?"""

from __future__ import annotations

import logging
import platform
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from laresa.errors import LaresaError
from sweeps.service.server import home
from sweeps.service.storage import StorageError, SweepFolder

log = logging.getLogger("laresa.nodes")
PATIENCE = 5.0  # seconds that a network file system may take to show a new file
ANSWER = 60.0  # seconds for every host to answer; a busy one has to start a worker first
CLOCKS_APART = 5.0  # seconds


@dataclass(frozen=True)
class Host:
    """What a host said of itself. ahead: seconds of its clock before the driver's, known up to the time asking took."""

    name: str
    sees: bool
    ahead: float
    asking: float


def check_nodes(folder: SweepFolder) -> None:
    """StorageError where a host of the connected Ray does not see the folder; a warning where clocks differ.

    A trial there would write its checkpoints to a folder of its own, and whoever took over would begin again.
    """
    import ray

    for host, reason in kept_away(home()).items():
        log.warning("%s did not join the cluster: %s", host, reason)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    marker = folder.root / f".seen-{uuid.uuid4().hex}"
    marker.touch()
    try:
        hosts = ask([node["NodeID"] for node in nodes], marker)
    finally:
        marker.unlink(missing_ok=True)
    complain(folder.root, hosts)


def kept_away(shared: Path) -> dict[str, str]:
    """host -> why cluster/node.sh could not make it a node."""
    return {path.name: " ".join(path.read_text().split()) for path in sorted(shared.glob("nodes/*"))}


def ask(nodes: list[str], marker: Path) -> list[Host]:
    """What each node says; one that does not answer is left to Ray, which will find it dead."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    looking = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        looking.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(str(marker))
        for node in nodes
    ]
    began, hosts, waiting = time.time(), [], asked
    while waiting and time.time() - began < ANSWER:
        answered, waiting = ray.wait(waiting, timeout=1.0)
        for answer in answered:
            now = time.time()
            try:
                name, sees, clock = ray.get(answer)
            except ray.exceptions.RayError as error:
                log.warning("a host did not answer (%s)", type(error).__name__)
                continue
            hosts.append(Host(name, sees, clock - now, now - began))
    if waiting:
        log.warning("%d of %d hosts did not answer within %.0f s", len(waiting), len(nodes), ANSWER)
    return hosts


def look(marker: str) -> tuple[str, bool, float]:
    """On a host: (its name, whether the file is there, its time)."""
    deadline = time.monotonic() + PATIENCE
    while not (sees := Path(marker).exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return platform.node(), sees, time.time()


def complain(root: Path, hosts: list[Host]) -> None:
    blind = sorted({host.name for host in hosts if not host.sees})
    if blind:
        raise StorageError(
            f"storage {root} is not shared: {', '.join(blind)} can't see it. Give --storage a folder that every host "
            "mounts (or s3://, gs:// through such a mount): see cluster/README.md"
        )
    for host in hosts:
        # The answer was on its way for some part of the time that asking took.
        if host.ahead > CLOCKS_APART or -host.ahead - host.asking > CLOCKS_APART:
            log.warning("the clock of %s is %+.0f s off: times in MLflow will look odd", host.name, host.ahead)


class BlindWorkerError(LaresaError):
    """This worker's host does not see the sweep's storage."""


def check_here(folder: Path) -> None:
    """On a worker, of a host that may have joined later: BlindWorkerError where the sweep's plan can't be seen."""
    if not (folder / "plan.json").exists():
        raise BlindWorkerError(f"{platform.node()} does not see {folder}: is the shared folder mounted there?")

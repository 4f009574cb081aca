"""The same cores on one worker host and on two, through ray up and ray submit on pretend hosts (root, namespaces)."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable

from tests.bench.timing import row
from tests.cluster import hosts as pretend
from tests.cluster.hosts import Hosts
from tests.cluster.site import Site, nodes, wait

STUDY = ["--tune", "0", "--subsets", "ce,ce+anchor", "--seeds", "0,1,2", "--epochs", "12", "--sweep", "spread"]


def two_against_one() -> list[dict[str, object]]:
    """Sweep efficiency of two hosts with a core each against one host with two, and how long they take to begin."""
    if reason := pretend.missing():
        print(f"    {reason}", file=sys.stderr)
        return []
    one = _measured(workers=1, cores=2)[0]
    two, up, first, power, cable = _measured(workers=2, cores=1)
    note = "six trials of 12 epochs; the head's MLflow and driver share the machine's two cores; baseline: one host"
    begin = "three hosts, environment installed"
    return [
        row("sweep efficiency, two worker hosts of one core", two, "ratio", one, two / one, note),
        row("ray up until all hosts are there", up, "s", None, None, begin),
        row("ray submit until a trial has trained an epoch", first, "s", None, None, begin),
        row("a power cut until Ray counts the host out", power, "s", None, None, "by ray status, twice a second"),
        row("a cable cut until Ray counts the host out", cable, "s", None, None, "by ray status, twice a second"),
    ]


def _measured(workers: int, cores: int) -> tuple[float, ...]:
    """(sweep efficiency, seconds of ray up, from ray submit to the first checkpoint, from a power cut and from a cable
    cut until it is noticed, one worker each).

    The head trains nothing.
    """
    edits = {
        "ray start --head": "ray start --head --num-cpus=0",
        "ray start --address=": f"ray start --num-cpus={cores} --address=",
    }
    with pretend.up(1 + workers) as hosts:
        site = Site(hosts, edits)
        began = time.perf_counter()
        site.run("ray", "up", "-y", str(site.yaml), timeout=120)
        wait(90, "cluster", lambda: nodes(hosts) == 1 + workers)
        up = time.perf_counter() - began
        began = time.perf_counter()
        study = site.start("ray", "submit", str(site.yaml), "sweeps/ablation.py", *STUDY)
        try:
            wait(90, "checkpoint", lambda: list(hosts.shared.glob("storage/spread/trials/*/attempt-0001/checkpoint-*")))
            first = time.perf_counter() - began
            study.wait(400)
        finally:
            site.end(study)
        said = site.output.read_text()
        found = re.search(r"time +([\d.]+) s for the sweep, ([\d.]+) s of it training on (\d+) workers", said)
        assert found, said[-3000:]
        sweep, training, at_once = (float(part) for part in found.groups())
        assert at_once == workers * cores, said[-3000:]
        noticed = [
            _noticed(hosts, i, how) for i, how in zip(range(1, 1 + workers), (hosts.kill, hosts.cut), strict=False)
        ]
        hosts.mend(workers)  # else `ray down` waits for it
        site.run("ray", "down", "-y", str(site.yaml), timeout=90, expect=None)
    return training / (at_once * sweep), up, first, *noticed


def _noticed(hosts: Hosts, i: int, how: Callable[[int], None]) -> float:
    before, began = nodes(hosts), time.perf_counter()
    how(i)
    wait(180, "news of it", lambda: nodes(hosts) < before)
    return time.perf_counter() - began

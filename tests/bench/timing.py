"""Side by side: two things in turn, A B A B, so that a machine whose speed drifts is the same for both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pairwise(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """(median seconds of ours, of the other, median of the ratios ours / other), after one round to warm up."""
    ours(), other()
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return medians[0], medians[1], statistics.median(a / b for a, b in pairs)


def row(
    name: str, value: float, unit: str, baseline: float | None, ratio: float | None, note: str
) -> dict[str, object]:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio, "note": note}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch's, inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def place() -> str:
    """Where torch computes, as the notes of rows name it."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def wait() -> None:
    """Until a GPU has done what it was asked for."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib() -> float:
    """The most memory that this process has held. Not getrusage's, in which the parent's counts too."""
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(peak) / 1024

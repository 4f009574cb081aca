"""How a sweep stands, seen from any terminal: from the tracker alone, and from the sweep's lock where storage is here.

It only shows. What a dead driver left running is shown as interrupted; `laresa run` closes it and goes on.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.service.planning.estimate import duration
from sweeps.service.storage.files import SweepFolder
from sweeps.service.tracking.records import TrialRecord
from sweeps.service.tracking.sweep import Sweep


@dataclass(frozen=True)
class Status:
    """driver: "at work", "none", or "unknown" where the sweep's storage is not on this machine.

    records: with "interrupted" in place of "running" where there is no driver. epochs: run id -> last epoch, of what
    is running. seconds_left: None where nothing runs or no epoch was measured yet.
    """

    sweep: str
    driver: str
    records: tuple[TrialRecord, ...]
    not_started: int
    epochs: Mapping[str, int]
    seconds_left: float | None

    @property
    def counts(self) -> dict[str, int]:
        counts = Counter(record.state for record in self.records)
        return {**dict(sorted(counts.items())), **({"not started": self.not_started} if self.not_started else {})}

    @property
    def best(self) -> TrialRecord | None:
        scored = [record for record in self.records if "best/val/top1" in record.metrics]
        return max(scored, key=lambda record: record.metrics["best/val/top1"], default=None)

    def lines(self) -> list[str]:
        """What a terminal shows."""
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items()) or "no trial yet"
        found = [f"{self.sweep}: {counts}"]
        for record in self.records:
            if record.state == "running":
                value = record.metrics.get("val/top1")
                measured = "no epoch yet" if value is None else f"val/top1 {value:.4f}"
                epoch = f"epoch {self.epochs.get(record.run_id, 0)} of {record.config.epochs}"
                found.append(f"  running {_name(record)}: {epoch}, {measured}")
        if self.best is not None:
            found.append(f"best val/top1 {self.best.metrics['best/val/top1']:.4f}: {_name(self.best)}")
        if self.seconds_left is not None:
            found.append(f"time left: about {duration(self.seconds_left)}")
        return found + self._advice()

    def _advice(self) -> list[str]:
        open_states = {"running", "interrupted", "not started"} & set(self.counts)
        if self.driver == "unknown" and open_states:
            return ["driver: unknown, the sweep's storage is not here (--storage); ask on the machine that runs it"]
        if self.driver == "none" and open_states:
            return ["driver: none; the command that started the sweep continues it"]
        return ["driver: at work"] if self.driver == "at work" else []


def status(sweep: str, folder: SweepFolder, *, tracking_uri: str | None = None) -> Status:
    """The state of a sweep now. ConfigError: the tracker knows no such sweep."""
    opened, driver = Sweep.open(sweep, tracking_uri), folder.driver()
    found = opened.trials()
    if driver == "none":
        found = [dataclasses.replace(r, state="interrupted") if r.state == "running" else r for r in found]
    running = [record for record in found if record.state == "running"]
    epochs = {record.run_id: opened.last_epoch(record) for record in running}
    not_started = max(0, opened.planned_trials - len(found)) if opened.left else 0
    return Status(sweep, driver, tuple(found), not_started, epochs, _seconds_left(found, running, epochs, not_started))


def _seconds_left(
    found: Sequence[TrialRecord], running: Sequence[TrialRecord], epochs: Mapping[str, int], not_started: int
) -> float | None:
    """Epochs left, of what runs and what has not started, times the median epoch, over what runs at once."""
    seconds = [record.metrics["seconds/epoch"] for record in found if "seconds/epoch" in record.metrics]
    if not running or not seconds:
        return None
    left = sum(record.config.epochs - epochs[record.run_id] for record in running)
    left += not_started * max(record.config.epochs for record in found)
    return left * statistics.median(seconds) / len(running)


def _name(record: TrialRecord) -> str:
    return f"{record.arm}, seed {record.config.seed}, fold {record.config.fold}"

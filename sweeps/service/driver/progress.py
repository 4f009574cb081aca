"""Progress while a sweep runs: a live table on a terminal, one plain line a trial in a log file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SHOWN = 12  # running trials with a line of their own


@dataclass
class Running:
    """A trial at work, as its results tell."""

    name: str
    epochs: int
    began: float = field(default_factory=time.monotonic)
    epoch: int = 0
    last: float = float("nan")
    best: float = 0.0


class ProgressDisplay:
    """What the user sees of a running sweep."""

    def __init__(self, name: str, done: int, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.name, self.done, self.total = name, done, total
        self.running: dict[str, Running] = {}
        self._ended: Counter[str] = Counter()
        self._best = (0.0, "")
        self._epochs, self._longest, self._began = 0, 0, time.monotonic()
        self._live = Live(
            console=self.console, get_renderable=self.table, refresh_per_second=2, transient=True, auto_refresh=True
        )
        self.say(f"{name}: {self.total} trials, {self.done} finished before")

    def __enter__(self) -> ProgressDisplay:
        self._began = time.monotonic()
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    # ------------------------------------------------------------------ what happens
    def started(self, trial_id: str, arm: str, config: Mapping[str, Any]) -> None:
        epochs = int(config["epochs"])
        name = f"{arm}, seed {config['seed']}, fold {config['fold']}"
        self.running.setdefault(trial_id, Running(name, epochs))
        self._longest = max(self._longest, epochs)

    def result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        trial = self.running.setdefault(trial_id, Running(trial_id, 0))
        epoch = int(result.get("epoch", 0))
        self._epochs += max(0, epoch - trial.epoch) if trial.epoch else 1
        trial.epoch, trial.last = epoch, float(result.get("val/top1", float("nan")))
        trial.best = max(trial.best, trial.last)
        self._best = max(self._best, (trial.best, trial.name))
        if result.get("state") == "fenced":
            self.left(trial_id)
        elif result.get("state") == "oom_shared_gpu":
            self.say(f"  requeued     {trial.name}: out of the memory of the GPU it shares; alone on a whole one later")
        elif result.get("done") and result.get("state") != "running":
            self._concluded(trial_id, result)

    def pruned(self, trial_id: str, outcome: Mapping[str, Any]) -> None:
        """The scheduler stopped a trial."""
        validation = outcome["metrics"]["best/val/top1"]
        self._concluded(trial_id, {"state": "pruned", "said": f"after {self._epoch(trial_id)}, val {validation:.3f}"})

    def lost(self, trial_id: str, why: str) -> None:
        """A trial had to be given up more often than it may, for no fault of its own."""
        name = self.running[trial_id].name if trial_id in self.running else trial_id
        after = self._epoch(trial_id)
        self.left(trial_id)
        self._ended["interrupted"] += 1
        self.say(f"  interrupted  {name} after {after}: {why}; run the same command to continue")

    def left(self, trial_id: str) -> None:
        """It is at work no more."""
        self.running.pop(trial_id, None)

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    # ------------------------------------------------------------------ how it looks
    def _concluded(self, trial_id: str, result: Mapping[str, Any]) -> None:
        trial = self.running.pop(trial_id, Running(trial_id, 0))
        self.done += 1
        self._ended[result["state"]] += 1
        said = result.get("said") or result.get("error") or ""
        if result["state"] == "finished":
            said = (
                f"val {result['val/top1']:.3f}, test {result['test/top1']:.3f}, best epoch {result['best_epoch']:.0f}"
            )
        seconds = time.monotonic() - trial.began
        self.say(f"[{self.done:3d}/{self.total}] {result['state']:9s} {trial.name}: {said} ({seconds:.0f} s)")

    def _epoch(self, trial_id: str) -> str:
        return f"epoch {self.running[trial_id].epoch if trial_id in self.running else 0}"

    def seconds_left(self) -> float | None:
        """At the speed so far, every trial left taken at its full length; None before the first epoch."""
        passed = time.monotonic() - self._began
        if not self._epochs or not passed:
            return None
        waiting = max(0, self.total - self.done - len(self.running)) * self._longest
        under_way = sum(max(0, trial.epochs - trial.epoch) for trial in self.running.values())
        return (waiting + under_way) * passed / self._epochs

    def table(self) -> Group:
        """States, best so far, speed and time left, and a line for each trial at work."""
        passed = time.monotonic() - self._began
        left = self.seconds_left()
        states = {"running": len(self.running), **self._ended}
        words = [f"{self.done} of {self.total} done", *(f"{count} {state}" for state, count in states.items())]
        words += [f"{self._epochs / passed:.1f} epochs/s"] if passed > 0 else []
        words += [f"{clock(passed)} passed", f"{clock(left)} left at most" if left is not None else "time left unknown"]
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=self.total, completed=self.done, width=60))
        head: list[RenderableType] = [Text(f"{self.name}: {' · '.join(words)}"), bar]
        if self._best[1]:
            head.append(Text(f"best val {self._best[0]:.3f}: {self._best[1]}"))
        rows = Table("running", "epoch", "val", "best val", "s an epoch", box=None, header_style="dim")
        for trial in list(self.running.values())[:SHOWN]:
            speed = f"{(time.monotonic() - trial.began) / trial.epoch:.1f}" if trial.epoch else ""
            numbers = ("" if trial.last != trial.last else f"{trial.last:.3f}", f"{trial.best:.3f}")
            rows.add_row(trial.name, f"{trial.epoch}/{trial.epochs}", *numbers, speed)
        more = len(self.running) - SHOWN
        return Group(*head, *([rows] if self.running else []), *([Text(f"... and {more} more")] if more > 0 else []))


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

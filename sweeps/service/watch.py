"""Progress on the terminal while a sweep runs: a live line on a terminal, one plain line a trial in a log file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Watch:
    """What the user sees of a running sweep."""

    def __init__(self, name: str, done: int, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.done, self.total = done, total
        self.best = 0.0
        self._running: dict[str, tuple[str, int]] = {}
        self._seconds: dict[str, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self._task = self._progress.add_task(name, total=self.total, completed=self.done)
        self._say(f"{name}: {self.total} trials, {self.done} finished before")

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, trial_id: str, arm: str, config: Mapping[str, Any]) -> None:
        self._running[trial_id] = (f"{arm}, seed {config['seed']}, fold {config['fold']}", 0)
        self._seconds.setdefault(trial_id, time.monotonic())

    def result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        name, _ = self._running.get(trial_id, (trial_id, 0))
        self._running[trial_id] = (name, int(result.get("epoch", 0)))
        if result.get("val/top1", 0.0) > self.best:
            self.best = result["val/top1"]
        if result.get("done") and result.get("state") != "running":
            self._concluded(trial_id, name, result)
        running = "; ".join(f"{label} epoch {epoch}" for label, epoch in self._running.values())
        self._progress.update(self._task, completed=self.done, description=f"best val {self.best:.3f} · {running}")

    def lost(self, trial_id: str) -> None:
        """A worker died more often than it may."""
        name, epoch = self._running.pop(trial_id, (trial_id, 0))
        self._say(f"  interrupted  {name} after epoch {epoch}: its worker died; run the same command to continue")

    def pruned(self, trial_id: str, outcome: Mapping[str, Any]) -> None:
        """The scheduler stopped a trial."""
        name, epoch = self._running.get(trial_id, (trial_id, 0))
        self._concluded(
            trial_id, name, {"state": f"pruned after epoch {epoch}, val {outcome['metrics']['best/val/top1']:.3f}:"}
        )

    def _concluded(self, trial_id: str, name: str, result: Mapping[str, Any]) -> None:
        self._running.pop(trial_id, None)
        self.done += 1
        seconds = time.monotonic() - self._seconds.pop(trial_id, time.monotonic())
        line = f"[{self.done:3d}/{self.total}] {result['state']:9s} {name}"
        if result["state"] == "finished":
            line += (
                f": val {result['val/top1']:.3f}, test {result['test/top1']:.3f}, best epoch {result['best_epoch']:.0f}"
            )
        elif result.get("error"):
            line += f": {result['error']}"
        self._say(f"{line} ({seconds:.0f} s)")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

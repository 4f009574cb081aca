"""Progress while a sweep runs: a live table on a terminal, one plain line a trial in a log file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.service.search.budget import Searched

SHOWN = 12  # running trials with a line of their own


@dataclass
class Running:
    """A trial at work, as its results tell. group: Tune's id of what it is trained in."""

    name: str
    group: str
    epochs: int
    began: float = field(default_factory=time.monotonic)
    epoch: int = 0
    last: float = float("nan")
    best: float = 0.0


class ProgressDisplay:
    """What the user sees of a running sweep."""

    def __init__(
        self,
        name: str,
        done: int,
        total: int,
        console: Console | None = None,
        searched: Callable[[], Searched] | None = None,
    ) -> None:
        """searched: asked while searches by epochs run; `total` is then the least there may be."""
        self.console = console or Console(stderr=True)
        self.name, self.done, self.total, self._searched = name, done, total, searched
        self.running: dict[str, Running] = {}  # by signature
        self._ended: Counter[str] = Counter()
        self._best = (0.0, "")
        self._epochs, self._longest, self._began = 0, 0, time.monotonic()
        self._live = Live(
            console=self.console, get_renderable=self.table, refresh_per_second=2, transient=True, auto_refresh=True
        )
        least = "at least " if searched else ""
        self.say(f"{name}: {least}{self.total} trials, {self.done} finished before")

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
    @property
    def groups(self) -> set[str]:
        """What runs, by Tune's ids."""
        return {trial.group for trial in self.running.values()}

    def started(self, group: str, trials: Sequence[Mapping[str, Any]]) -> None:
        """trials: as `PlannedTrial.to_dict` describes them."""
        for trial in trials:
            config, epochs = trial["config"], int(trial["config"]["epochs"])
            name = f"{trial['arm']}, seed {config['seed']}, fold {config['fold']}"
            self.running.setdefault(trial["signature"], Running(name, group, epochs))
            self._longest = max(self._longest, epochs)

    def result(self, group: str, result: Mapping[str, Any]) -> None:
        """What a group reports: see `worker.trial.group_result`."""
        for row in result["trials"]:
            if row["signature"] in self.running:  # else it has ended before the others of its group
                self._result(row["signature"], row)

    def _result(self, signature: str, result: Mapping[str, Any]) -> None:
        trial = self.running[signature]
        epoch = int(result.get("epoch", 0))
        self._epochs += max(0, epoch - trial.epoch) if trial.epoch else 1
        trial.epoch, trial.last = epoch, float(result.get("val/top1", float("nan")))
        trial.best = max(trial.best, trial.last)
        self._best = max(self._best, (trial.best, trial.name))
        if result.get("state") == "fenced":
            del self.running[signature]
        elif result.get("state") == "stopped":
            del self.running[signature]
            self._ended["stopped"] += 1
            self.say(f"  stopped      {trial.name} after epoch {epoch}, as asked; run the same command to continue")
        elif result.get("state") == "oom_shared_gpu":
            self.say(f"  requeued     {trial.name}: out of the memory of the GPU it shares; alone on a whole one later")
        elif result.get("done") and result.get("state") != "running":
            self._concluded(signature, result)

    def pruned(self, signature: str, outcome: Mapping[str, Any]) -> None:
        """The scheduler stopped a trial."""
        epoch, validation = len(outcome["history"]), outcome["metrics"]["best/val/top1"]
        self._concluded(signature, {"state": "pruned", "said": f"after epoch {epoch}, val {validation:.3f}"})

    def lost(self, group: str, why: str) -> None:
        """A group had to be given up more often than it may, for no fault of its own."""
        for trial in self.left(group):
            self._ended["interrupted"] += 1
            after = f"{trial.name} after epoch {trial.epoch}"
            self.say(f"  interrupted  {after}: {why}; run the same command to continue")

    def left(self, group: str) -> list[Running]:
        """What of a group is at work no more."""
        gone = {signature: trial for signature, trial in self.running.items() if trial.group == group}
        for signature in gone:
            del self.running[signature]
        return list(gone.values())

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    # ------------------------------------------------------------------ how it looks
    def _concluded(self, signature: str, result: Mapping[str, Any]) -> None:
        trial = self.running.pop(signature)
        self.done += 1
        self._ended[result["state"]] += 1
        said = result.get("said") or result.get("error") or ""
        if result["state"] == "finished":
            said = (
                f"val {result['val/top1']:.3f}, test {result['test/top1']:.3f}, best epoch {result['best_epoch']:.0f}"
            )
        seconds = time.monotonic() - trial.began
        self.say(f"[{self.done:3d}/{self._of}] {result['state']:9s} {trial.name}: {said} ({seconds:.0f} s)")

    @property
    def _of(self) -> str:
        """ "60", or "60+" while searches may ask for more."""
        return f"{max(self.total, self.done)}{'+' if self._searched else ''}"

    def seconds_left(self) -> float | None:
        """At the speed so far, every trial left taken at its full length; None before the first epoch."""
        passed = time.monotonic() - self._began
        if not self._epochs or not passed:
            return None
        return self._epochs_left() * passed / self._epochs

    def _epochs_left(self) -> int:
        if self._searched:
            return max(0, self._searched().left - sum(trial.epoch for trial in self.running.values()))
        waiting = max(0, self.total - self.done - len(self.running)) * self._longest
        return waiting + sum(max(0, trial.epochs - trial.epoch) for trial in self.running.values())

    def table(self) -> Group:
        """States, best so far, speed and time left, and a line for each trial at work."""
        passed = time.monotonic() - self._began
        left = self.seconds_left()
        states = {"running": len(self.running), **self._ended}
        words = [f"{self.done} of {self._of} done", *(f"{count} {state}" for state, count in states.items())]
        words += [f"{self._epochs / passed:.1f} epochs/s"] if passed > 0 else []
        words += [f"{clock(passed)} passed", f"{clock(left)} left at most" if left is not None else "time left unknown"]
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=self.total, completed=self.done, width=60))
        head: list[RenderableType] = [Text(f"{self.name}: {' · '.join(words)}"), bar]
        if self._searched:
            now = self._searched()
            head.append(Text(f"searched: {now.trials} trials, {now.epochs} of {now.budget} epochs"))
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

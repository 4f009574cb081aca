"""Where a group's checkpoint lies, and where its trials' earlier ones do.

A trial alone keeps its checkpoint in its own folder. Trials that train together have one file, in a folder of the
group; each of them notes which group has its state (`group.json`). So a group that is composed otherwise after a
restart finds the state of every trial, whoever shared a file with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweeps.service.storage.files import GROUP, Attempt, SweepFolder, TrialFolder

KEEP_SECONDS = 20.0  # at least between two checkpoints of a group


class GroupFiles:
    """The checkpoints of trials that train together, by their folders in the group's order."""

    def __init__(self, sweep: SweepFolder, keys: Sequence[str]) -> None:
        self.alone, self.trials = len(keys) == 1, [sweep.trial(key) for key in keys]
        self._sweep, self._name = sweep, hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]
        self._attempt: Attempt | None = None
        self._kept = 0

    def earlier(self) -> Iterator[tuple[TrialFolder, list[int]]]:
        """Folders with checkpoints, and which of the trials to take from each."""
        if self.alone:
            yield self.trials[0], [0]
            return
        by_group: dict[str, list[int]] = {}
        for index, trial in enumerate(self.trials):
            if (noted := trial.read(GROUP)) is not None:
                by_group.setdefault(noted["group"], []).append(index)
        for name, indices in by_group.items():
            yield self._sweep.group(name), indices

    def begin(self, own: Attempt | None) -> None:
        """own: of a trial alone, the right to its files."""
        self._attempt = own or self._sweep.group(self._name).new_attempt()
        self._kept = 0

    def next(self, epochs: int) -> Path:
        """The file to write now. FencedError: a newer attempt trains this group. epochs: that a trial alone has had."""
        assert self._attempt is not None
        self._attempt.check()
        return self._attempt.checkpoint(epochs if self.alone else self._kept + 1)

    def keep(self, path: Path, begun: Sequence[int]) -> None:
        """The file is written: it counts. begun: the trials whose state stands in it."""
        assert self._attempt is not None
        self._attempt.keep(path)
        self._kept += 1
        if not self.alone:
            for index in begun:
                if self.trials[index].read(GROUP) != {"group": self._name}:
                    self.trials[index].write(GROUP, {"group": self._name})

    def drop(self) -> None:
        """No trial of the group is left: nor need its checkpoints be."""
        if not self.alone:
            self._sweep.group(self._name).drop_checkpoints()

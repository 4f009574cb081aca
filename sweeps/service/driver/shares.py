"""What each of several sweeps on one Ray cluster may hold of it.

Ray gives a place to whoever asked first, and a sweep keeps its workers from trial to trial: the second would wait for
the first to end. So each driver tells the others what it asks for, all reckon the same shares of it, and who holds
more than its share gives places back: its youngest trials end their epoch, keep it, and wait for their turn.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sweeps.service.worker import board

PREFIX = "share/"
TELL_SECONDS = 5.0
DEAD_SECONDS = 30.0  # after which a driver that tells nothing new counts no more


@dataclass(frozen=True)
class Demand:
    """What a sweep asks for. wants: groups of trials at once. running: now. places: how many fill the cluster."""

    priority: float
    wants: int
    places: int
    gpu: bool
    running: int = 0


def allotted(demands: Mapping[str, Demand]) -> dict[str, int]:
    """Places by sweep: one after the other to whoever has the least of the cluster for its priority; one at least."""
    given, room = dict.fromkeys(sorted(demands), 0), 1.0

    def share(name: str) -> float:
        return (given[name] + 1) / demands[name].places / demands[name].priority

    while True:
        fitting = [name for name in given if given[name] < demands[name].wants]
        fitting = [name for name in fitting if 1 / demands[name].places <= room + 1e-9]
        if not fitting:
            return {name: max(1, count) for name, count in given.items()}
        name = min(fitting, key=share)
        given[name] += 1
        room -= 1 / demands[name].places


class Shares:
    """This sweep's share. allowed: how many of its groups may run at once; None while no other asks for the same."""

    def __init__(self, sweep: str, priority: float, gpu: bool, most: int | None = None) -> None:
        """most: how many of its groups may run at once, whatever there is; None: as many as fit."""
        self.allowed: int | None = None
        self.starved = False  # whether another sweep still waits for its share
        self._priority, self._gpu, self._most = priority, gpu, math.inf if most is None else most
        self._name = f"{PREFIX}{sweep}/{platform.node()}/{os.getpid()}"
        self._running: dict[str, None] = {}  # groups, the oldest first
        self._heard: dict[str, tuple[int, float]] = {}  # name -> (its last count, when that was new)
        self._count, self._told_at = 0, -math.inf

    def started(self, group: str) -> None:
        self._running[group] = None

    def ended(self, group: str) -> None:
        self._running.pop(group, None)

    @property
    def due(self) -> bool:
        return time.monotonic() - self._told_at >= TELL_SECONDS

    def tell(self, given: int, more: bool, places: int) -> None:
        """Say what this sweep asks for, and reckon its share.

        given: its groups that run or wait. more: whether others follow. places: how many would fill the cluster.
        """
        self._count, self._told_at = self._count + 1, time.monotonic()
        wants = int(min(self._most, max(given, places) if more else given))
        mine = Demand(self._priority, wants, places, self._gpu, len(self._running))
        with contextlib.suppress(board.AwayError):  # the share stays as it was
            board.put(self._name, {"count": self._count, "demand": asdict(mine)})
            told = board.get_all(PREFIX)
            self.reckon({name: one for name, one in told.items() if name != self._name}, mine, self._told_at)

    def reckon(self, others: Mapping[str, Mapping[str, Any]], mine: Demand, now: float) -> None:
        """others: what they have told, by name."""
        demands = {self._name: mine}
        for name, told in others.items():
            count, demand = told["count"], Demand(**told["demand"])
            if self._heard.get(name, (None, 0.0))[0] != count:
                self._heard[name] = (count, now)
            if now - self._heard[name][1] < DEAD_SECONDS and demand.gpu == self._gpu:
                demands[name] = demand
        shares = allotted(demands)
        self.allowed = shares.pop(self._name) if len(demands) > 1 else None
        self.starved = any(demands[name].running < share for name, share in shares.items() if name != self._name)

    def room(self) -> float:
        """How many groups may wait for a place. More than there is room for only where no other sweep waits for its
        share: they would take what others give back, but an autoscaler brings hosts for them."""
        if self.allowed is None:
            return math.inf
        left = max(0, self.allowed - len(self._running))
        return left if self.starved or len(self._running) > self.allowed else left + self.allowed

    def too_many(self, waiting: Collection[str]) -> list[str]:
        """Of the groups that wait, the last, for which there is no room."""
        room = self.room()
        return [] if room >= len(waiting) else list(waiting)[int(room) :]

    def gives_way(self, group: str) -> bool:
        """Whether this group, which runs, is to end its epoch and wait."""
        return self.allowed is not None and group in list(self._running)[self.allowed :]

    def leave(self) -> None:
        with contextlib.suppress(board.AwayError):
            board.take_away(self._name)

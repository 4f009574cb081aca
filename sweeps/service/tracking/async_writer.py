"""Sends what trials report to the tracker from a thread of its own: training never waits for the server."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from laresa.measurement import Measurement
from sweeps.service.storage.files import TrialFolder
from sweeps.service.tracking.bulk import Bulk
from sweeps.service.tracking.client import client, refused
from sweeps.service.tracking.deliver import Change, Delivery, Tracker, deliver_all, points
from sweeps.service.tracking.thin import at_once
from sweeps.service.tracking.write import TrialRun

log = logging.getLogger("laresa.writer")


@dataclass(frozen=True)
class _Measured:
    signature: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class _Concluded:
    trial: TrialRun
    folder: TrialFolder


_Message = TrialRun | _Measured | _Concluded


@dataclass
class _Batch:
    """What waits, of all runs: each is opened, then measured, then concluded."""

    opened: dict[str, TrialRun] = field(default_factory=dict)
    measured: dict[str, list[Measurement]] = field(default_factory=dict)
    concluded: dict[str, _Concluded] = field(default_factory=dict)

    def add(self, message: _Message) -> None:
        if isinstance(message, TrialRun):
            self.opened[message.signature] = message
        elif isinstance(message, _Measured):
            self.measured.setdefault(message.signature, []).extend(message.measurements)
        else:
            self.concluded[message.trial.signature] = message

    def takes(self, message: _Message) -> bool:
        """A trial that begins anew waits until what it did before is sent."""
        return not isinstance(message, TrialRun) or message.signature not in self.concluded | self.measured


class AsyncWriter(threading.Thread):
    """AsyncWriter: sends a worker's reports from a thread of its own: training never waits for the server.

    What waits together travels together, of all the worker's trials: measurements at most every FLUSH_SECONDS, and
    shortly after a trial is opened or concluded. What fails because the server is away is tried again until it
    succeeds; what the server refuses is logged and left to the runner, as is whatever was not sent when the worker
    ends: storage has it all.
    """

    FLUSH_SECONDS = 3.0
    SOON_SECONDS = 0.2  # so that the openings, or ends, of a group come together
    BACKOFF_SECONDS = (0.5, 1, 2, 4, 8, 15)

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True, name="laresa-writer")
        self._uri, self._stopping = uri, threading.Event()
        self._messages: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._run_ids: dict[str, str] = {}
        self._epochs: dict[str, int] = {}  # that a trial may have, by signature
        self._sent: dict[str, int] = {}  # last epoch delivered, of trials of which none before it is missing

    def open(self, trial: TrialRun) -> None:
        self._messages.put(trial)

    def measured(self, signature: str, measurements: Sequence[Measurement]) -> None:
        self._messages.put(_Measured(signature, tuple(measurements)))

    def conclude(self, trial: TrialRun, folder: TrialFolder) -> None:
        self._messages.put(_Concluded(trial, folder))

    def stop(self, seconds: float) -> None:
        """Send what is queued, for at most `seconds`."""
        self._messages.put(None)
        self.join(seconds)
        self._stopping.set()

    def run(self) -> None:
        api = client(self._uri)
        tracker = Tracker(api, Bulk(api))
        held: _Message | None = None
        while (message := held or self._messages.get()) is not None:
            batch, held, ending = self._gather(message)
            for send in (self._open, self._measure, self._conclude):
                self._until_done(send, tracker, batch)
            if ending:
                return

    def _gather(self, message: _Message) -> tuple[_Batch, _Message | None, bool]:
        """(the message and what comes shortly after it, a message that has to wait for them, end seen)."""
        batch, deadline = _Batch(), time.monotonic() + self.FLUSH_SECONDS
        while batch.takes(message):
            batch.add(message)
            if not isinstance(message, _Measured):
                deadline = min(deadline, time.monotonic() + self.SOON_SECONDS)
            try:
                following = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return batch, None, False
            if following is None:
                return batch, None, True
            message = following
        return batch, message, False

    # What is done leaves the batch; what raises is tried again.
    def _open(self, tracker: Tracker, batch: _Batch) -> None:
        trials = list(batch.opened.values())
        for trial, answer in zip(trials, tracker.open(trials), strict=True):
            if isinstance(answer, Exception):
                _say_refused(answer)
                continue
            self._run_ids[trial.signature], self._epochs[trial.signature] = answer.run_id, trial.trial.config.epochs
            self._sent[trial.signature] = 0
        batch.opened.clear()

    def _measure(self, tracker: Tracker, batch: _Batch) -> None:
        measured = [(name, rows) for name, rows in batch.measured.items() if name in self._run_ids]
        changes = [
            Change(self._run_ids[name], points(row for row in rows if at_once(row, self._epochs[name])))
            for name, rows in measured
        ]
        for (name, rows), refusal in zip(measured, tracker.write(changes), strict=True):
            if refusal is not None:
                _say_refused(refusal)
                self._sent.pop(name, None)  # nothing counts as sent any more: its conclusion sends all
            elif name in self._sent:
                self._sent[name] = rows[-1].epoch
        batch.measured.clear()

    def _conclude(self, tracker: Tracker, batch: _Batch) -> None:
        waiting, failed = dict(batch.concluded), None
        deliveries = [Delivery(each.trial, each.folder, self._sent.get(name, 0)) for name, each in waiting.items()]
        for name, answer in zip(waiting, deliver_all(tracker, deliveries), strict=True):
            if isinstance(answer, Exception):
                if not refused(answer):
                    failed = answer
                    continue
                _say_refused(answer)
            del batch.concluded[name]
        if failed is not None:
            raise failed

    def _until_done(self, send: Callable[[Tracker, _Batch], None], tracker: Tracker, batch: _Batch) -> None:
        tries = 0
        while not self._stopping.is_set():
            try:
                return send(tracker, batch)
            except Exception as error:
                if refused(error):
                    return _say_refused(error)
            self._stopping.wait(self.BACKOFF_SECONDS[min(tries, len(self.BACKOFF_SECONDS) - 1)])
            tries += 1
        return None


def _say_refused(error: Exception) -> None:
    log.warning("the tracking server refused a record, the runner will try again: %s", error)

"""Sends measurements to the tracker from a thread of its own: training never waits for the server."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from laresa.measurement import Measurement
from sweeps.service.storage.files import TrialFolder
from sweeps.service.tracking.client import client
from sweeps.service.tracking.write import TrialRun, deliver, log_measurements, open_trial

log = logging.getLogger("laresa.writer")


@dataclass(frozen=True)
class _Measured:
    signature: str
    measurements: tuple[Measurement, ...]


class AsyncWriter(threading.Thread):
    """AsyncWriter: sends a worker's measurements from a thread of its own: training never waits for the server.

    What waits together travels together, at most one batch of metrics every FLUSH_SECONDS. A job that fails because
    the server is away is tried again until it succeeds; one that the server refuses is logged and left to the runner,
    as is whatever was not sent when the worker ends: storage has it all.
    """

    FLUSH_SECONDS = 3.0
    BACKOFF_SECONDS = (0.5, 1, 2, 4, 8, 15)

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True, name="laresa-writer")
        self._uri, self._stopping = uri, threading.Event()
        self._messages: queue.SimpleQueue[_Measured | Callable[[Any], None] | None] = queue.SimpleQueue()
        self._run_ids: dict[str, str] = {}
        self._sent: dict[str, int] = {}  # last epoch delivered, by signature

    def open(self, trial: TrialRun) -> None:
        def job(api: Any) -> None:
            self._run_ids[trial.signature] = open_trial(api, trial)
            self._sent[trial.signature] = 0

        self._messages.put(job)

    def measured(self, signature: str, measurements: Sequence[Measurement]) -> None:
        self._messages.put(_Measured(signature, tuple(measurements)))

    def conclude(self, trial: TrialRun, folder: TrialFolder) -> None:
        def job(api: Any) -> None:
            deliver(api, trial, folder, after_epoch=self._sent.get(trial.signature, 0))

        self._messages.put(job)

    def stop(self, seconds: float) -> None:
        """Send what is queued, for at most `seconds`."""
        self._messages.put(None)
        self.join(seconds)
        self._stopping.set()

    def run(self) -> None:
        api = client(self._uri)
        held: _Measured | Callable[[Any], None] | None = None
        while True:
            message = held or self._messages.get()
            held = None
            if message is None:
                return
            if isinstance(message, _Measured):
                message, held, ending = self._gather(message)
                self._until_done(api, self._send_job(message))
                if ending:
                    return
            else:
                self._until_done(api, message)

    def _gather(self, first: _Measured) -> tuple[_Measured, Callable[[Any], None] | _Measured | None, bool]:
        """(all measurements of `first`'s trial that come within FLUSH_SECONDS, the next other message, end seen)."""
        measurements, deadline = list(first.measurements), time.monotonic() + self.FLUSH_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self._messages.get(timeout=left)
            except queue.Empty:
                break
            if not isinstance(message, _Measured) or message.signature != first.signature:
                return _Measured(first.signature, tuple(measurements)), message, message is None
            measurements.extend(message.measurements)
        return _Measured(first.signature, tuple(measurements)), None, False

    def _send_job(self, message: _Measured) -> Callable[[Any], None]:
        def job(api: Any) -> None:
            log_measurements(api, self._run_ids[message.signature], message.measurements)
            self._sent[message.signature] = message.measurements[-1].epoch

        return job

    def _until_done(self, api: Any, job: Callable[[Any], None]) -> None:
        tries = 0
        while not self._stopping.is_set():
            try:
                return job(api)
            except Exception as error:
                if refused(error):
                    log.warning("the tracking server refused a record, the runner will try again: %s", error)
                    return None
            self._stopping.wait(self.BACKOFF_SECONDS[min(tries, len(self.BACKOFF_SECONDS) - 1)])
            tries += 1
        return None


def refused(error: Exception) -> bool:
    """Whether trying again is useless: the server understood and said no, or the fault is ours."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return error.error_code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
    return not isinstance(error, (MlflowException, OSError))

"""What the user asks for in MLflow while a sweep runs: the tag `laresa.stop` = `true` on a trial, or on the sweep.

Of a trial that ended for it, MLflow shows so at once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import Any

from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking import write as tracking
from sweeps.service.tracking.client import client
from sweeps.service.tracking.stops import asked_to_stop
from sweeps.service.tracking.write import SweepRun
from sweeps.service.worker import board

log = logging.getLogger("laresa.wishes")
LOOK_SECONDS = 5.0


class Wishes(threading.Thread):
    """Looks while trials run; trials hear of it from their workers, at the end of their epoch.

    stopped: trials that did, put in by the driver and taken out here.
    """

    def __init__(self, sweep: SweepRun, interrupt: GracefulInterrupt, stopped: deque[PlannedTrial]) -> None:
        super().__init__(daemon=True, name="laresa-wishes")
        self._sweep, self._interrupt, self._stopped = sweep, interrupt, stopped
        self._over = threading.Event()

    def run(self) -> None:
        api, told = client(self._sweep.uri), list[str]()
        while not self._over.wait(LOOK_SECONDS):
            try:
                whole, trials = asked_to_stop(api, self._sweep)
                if trials != told:
                    board.put(board.stops_of(self._sweep.parent_run_id), trials)
                    told = trials
                self._close(api)
            except Exception as error:  # the server is away: whoever trains goes on
                log.debug("not looked: %s", error)
                continue
            if whole:
                self._interrupt.ask("laresa.stop is set on the sweep in MLflow")

    def _close(self, api: Any) -> None:
        while self._stopped:
            tracking.interrupt(api, self._sweep, self._stopped[0])
            self._stopped.popleft()

    def __enter__(self) -> Wishes:
        with contextlib.suppress(board.AwayError):
            board.put(board.stops_of(self._sweep.parent_run_id), [])
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(LOOK_SECONDS)

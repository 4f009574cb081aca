"""What the user asks for in MLflow while a sweep runs: the tag `laresa.stop` = `true` on a trial, or on the sweep."""

from __future__ import annotations

import logging
import threading

from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.tracking.client import client
from sweeps.service.tracking.stops import asked_to_stop
from sweeps.service.tracking.write import SweepRun
from sweeps.service.worker import board

log = logging.getLogger("laresa.wishes")
LOOK_SECONDS = 5.0


class Wishes(threading.Thread):
    """Looks while trials run; trials hear of it from their workers, at the end of their epoch."""

    def __init__(self, sweep: SweepRun, interrupt: GracefulInterrupt) -> None:
        super().__init__(daemon=True, name="laresa-wishes")
        self._sweep, self._interrupt = sweep, interrupt
        self._over = threading.Event()

    def run(self) -> None:
        api, told = client(self._sweep.uri), list[str]()
        while not self._over.wait(LOOK_SECONDS):
            try:
                whole, trials = asked_to_stop(api, self._sweep)
                if trials != told:
                    board.put(board.stops_of(self._sweep.parent_run_id), trials)
                    told = trials
            except Exception as error:  # the server is away: whoever trains goes on
                log.debug("not looked: %s", error)
                continue
            if whole:
                self._interrupt.ask("laresa.stop is set on the sweep in MLflow")

    def __enter__(self) -> Wishes:
        board.put(board.stops_of(self._sweep.parent_run_id), [])
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(LOOK_SECONDS)

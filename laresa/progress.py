"""How far long work has come, in lines on stderr: what a log can hold."""

from __future__ import annotations

import sys
import time


class Told:
    """How far a preparation has come, a line every few seconds."""

    SECONDS = 5.0

    def __init__(self, what: str) -> None:
        self.what, self._last = what, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() - self._last >= self.SECONDS:
            self._last = time.monotonic()
            print(f"{self.what}: {done:,} of {of:,} images", file=sys.stderr, flush=True)

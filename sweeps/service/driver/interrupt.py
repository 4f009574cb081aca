"""Being asked to stop: by Ctrl-C, by a batch system's SIGTERM, by the SIGHUP of a terminal that was closed.

Before trials run it ends the command; while they run they end their epoch and keep its checkpoint, and asked twice
they end at once. All is resumable.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, FrameType | None], None]


class GracefulInterrupt:
    """Hears the signals between enter and exit. `requested` after the first; the second raises KeyboardInterrupt.

    why: "" where a signal asked, else who or what did.
    """

    def __init__(self) -> None:
        self.requested, self.why = False, ""
        self._heard = contextlib.ExitStack()

    def __enter__(self) -> GracefulInterrupt:
        self._heard.enter_context(hearing(self._hear))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heard.close()

    def ask(self, why: str) -> None:
        """Without a signal."""
        if not self.requested:
            self.requested, self.why = True, why

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Nothing is printed here: the signal may have come in the middle of a print.
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def hearing(handler: Handler) -> Iterator[None]:
    """The handler hears the signals, in the main thread. One that is ignored (nohup) stays so."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, _leaving_the_terminal(handler)) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def spared_by_the_terminal() -> Iterator[None]:
    """Processes that are started here outlive the terminal's end: their driver tells them when to go."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(hangup, signal.SIG_IGN)  # is inherited
    try:
        yield
    finally:
        signal.signal(hangup, before)


def interrupted(number: int, frame: FrameType | None) -> None:
    """As Python's own handler of Ctrl-C."""
    raise KeyboardInterrupt


def _leaving_the_terminal(handler: Handler) -> Handler:
    def hear(number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _to_nowhere()
        handler(number, frame)

    return hear


def _to_nowhere() -> None:
    """Of the standard streams, those that lead to a terminal, which is gone: to write there would fail."""
    with open(os.devnull, "r+b", buffering=0) as nowhere:
        for stream in (0, 1, 2):
            with contextlib.suppress(OSError):
                if stat.S_ISCHR(os.fstat(stream).st_mode):
                    os.dup2(nowhere.fileno(), stream)

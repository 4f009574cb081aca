"""What went wrong, as one line: the one place that turns errors of MLflow, SQLAlchemy, Ray, Pillow, ... into ours."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from pathlib import Path

from laresa import plugins
from laresa.errors import LaresaError

DEBUG = "--debug"
LENGTH = 500  # of another's message; some hold a whole SQL statement
BUG = f"this is a bug in laresa or a broken installation; run again with {DEBUG} for the traceback"
STORE = "the tracking store can't be used"
MEND = "see --tracking-uri (or MLFLOW_TRACKING_URI); of the local server, server.log in .laresa/mlflow"
PACKAGES = {  # that an error's class is from -> (what happened, what to do)
    "mlflow": (STORE, MEND),
    "sqlalchemy": (STORE, f"is its database locked, damaged, or its disk full? {MEND}"),
    "sqlite3": (STORE, f"is its database locked, damaged, or its disk full? {MEND}"),
    "alembic": (STORE, f"is its database half made, or of another version of MLflow? {MEND}"),
    "requests": ("the tracking server can't be reached", MEND),
    "urllib3": ("the tracking server can't be reached", MEND),
    "http": ("the tracking server's answer makes no sense", MEND),
    "ray": ("Ray failed", "is its cluster up (`ray status`)? `ray stop` forgets a dead one"),
    "optuna": ("the search's journal can't be used", "move optuna.journal in the sweep's storage away"),
    "pyarrow": ("the bucket can't be used", "see --storage and cluster/README.md"),
    "PIL": ("an image can't be read", "`laresa data check` names it"),
    "yaml": ("a YAML file can't be read", "correct it"),
    "json": ("a file is no JSON", "correct it, or move it away and run again"),
}
ERRNOS = {
    errno.ENOSPC: "the disk is full: make room, or choose another --storage, LARESA_HOME or XDG_CACHE_HOME",
    errno.EDQUOT: "the disk quota is used up: make room, or choose another --storage, LARESA_HOME or XDG_CACHE_HOME",
    errno.EROFS: "the disk is read-only: choose another --storage, LARESA_HOME or XDG_CACHE_HOME",
    errno.EACCES: "no permission: see who owns it",
    errno.EPERM: "no permission: see who owns it",
}


def told(error: Exception) -> tuple[str, int]:
    """(what to print, the exit code): 2 for bad use, 1 for work that failed."""
    if isinstance(error, LaresaError):
        return str(error), 2 if isinstance(error, ValueError) else 1
    if where := _in_plugin(error):
        return f"{where}: {_brief(error)}; {DEBUG} shows the traceback", 1
    for package in _packages(error):
        if package in PACKAGES:
            happened, mend = PACKAGES[package]
            return f"{happened} ({_brief(error)}): {mend}", 1
    if isinstance(error, OSError) and error.errno is not None:
        named = f"{error.filename}: " if error.filename is not None else ""
        return f"{named}{ERRNOS.get(error.errno, error.strerror)}", 1
    if isinstance(error, UnicodeDecodeError):
        return f"a file is no text in UTF-8 ({_brief(error)}): save it as UTF-8", 1
    if isinstance(error, ImportError):
        return f"a package is missing or broken ({_brief(error)}): install laresa's requirements again", 1
    if isinstance(error, MemoryError):
        return "the memory is full: a smaller image_size, input_size or batch_size needs less", 1
    return f"{_brief(error)}; {BUG}", 1


def _packages(error: Exception) -> Iterator[str]:
    """Where its class and those above it are from; of a bare RuntimeError, who raised it."""
    for kind in type(error).__mro__:
        yield kind.__module__.partition(".")[0]
    if type(error) is RuntimeError:
        frames = list(traceback.walk_tb(error.__traceback__))
        yield str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0]


def _in_plugin(error: Exception) -> str:
    """File and line of a plugin or study of the user's where it was raised; "" elsewhere."""
    own = {plugin.path for plugin in plugins.loaded()}
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames and Path(frames[-1].filename) in own else ""


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:LENGTH]}{'…' if len(text) > LENGTH else ''}"

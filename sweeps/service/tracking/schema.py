"""The tables of a new sqlite database: all of them, or no file. MLflow, killed while it makes them, can't go on.

As a program (`python -m sweeps.service.tracking.schema URI server ...`) it makes them and becomes `mlflow server ...`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from filelock import FileLock

from laresa.files import atomic_write, make_folder

SQLITE = "sqlite:///"


def make_store(uri: str) -> None:
    """Where `uri` is a sqlite database that does not exist yet, make it. StorageError: it can't be written."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or _there(path):
        return
    make_folder(path.parent)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not _there(path):
            atomic_write(path, _make_tables)


def _there(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0  # sqlite itself leaves an empty file when it is killed


def _make_tables(path: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(f"{SQLITE}{path}")
    _initialize_tables(engine)
    engine.dispose()


if __name__ == "__main__":
    from mlflow.cli import cli

    make_store(sys.argv.pop(1))
    cli(prog_name="mlflow")

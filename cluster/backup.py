"""A team server's folder, copied while it runs, and put back.

python -m cluster.backup FOLDER BACKUP            a new folder BACKUP, complete when the command ends with 0
python -m cluster.backup --restore BACKUP FOLDER  into a folder that does not exist, with the server stopped

The databases are copied by sqlite's own backup, which is consistent while others write; artifacts after them, so that
every artifact a backed-up run names is there. With PostgreSQL and S3: pg_dump and the store's own copies instead.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.private import close

LEFT = shutil.ignore_patterns("*.db", "*.db-*", "*.log", "*.partial")


def backup(folder: Path, target: Path) -> None:
    """Raises FileExistsError rather than mix two backups."""
    if not (folder / "mlflow.db").exists():
        raise FileNotFoundError(f"{folder} holds no mlflow.db: is it the folder of a server on sqlite?")
    if target.exists():
        raise FileExistsError(f"{target} exists: give each backup a folder of its own")
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, mode=0o700)
    for database in sorted(folder.glob("*.db")):
        with (
            contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(partial / database.name)) as copy,
        ):
            source.backup(copy)
    shutil.copytree(folder, partial, ignore=LEFT, dirs_exist_ok=True)
    close(partial)
    partial.rename(target)


def restore(source: Path, folder: Path) -> None:
    """Raises FileExistsError if the folder is there: move it away first, it may be all that is left."""
    if not (source / "mlflow.db").exists():
        raise FileNotFoundError(f"{source} is no backup: it holds no mlflow.db")
    if folder.exists():
        raise FileExistsError(f"{folder} exists: move it away first")
    shutil.copytree(source, folder)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.backup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restore", action="store_true", help="copy back: SOURCE is the backup, TARGET the folder")
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET")
    args = parser.parse_args(argv)
    try:
        (restore if args.restore else backup)(args.source, args.target)
    except OSError as error:
        print(f"backup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

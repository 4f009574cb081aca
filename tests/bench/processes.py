"""Commands in a home of their own, as a user would type them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def laresa(arguments: list[str], home: Path) -> str:
    return python(["-m", "sweeps.cli", *arguments], home)


def python(arguments: list[str], home: Path) -> str:
    environment = {**os.environ, "LARESA_HOME": str(home / ".laresa"), "PYTHONPATH": os.getcwd(), "COLUMNS": "160"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run([sys.executable, *arguments], cwd=home, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout

"""Which code, which versions, which commit stand behind the numbers."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def provenance_tags() -> dict[str, str]:
    """Versions, commit and command behind the numbers."""
    tags = {f"laresa.version.{name}": metadata.version(name) for name in ("torch", "timm", "ray", "mlflow", "optuna")}
    tags["laresa.version"] = metadata.version("laresa-sweeps")
    tags["laresa.version.python"] = platform.python_version()
    tags["laresa.git_commit"], tags["laresa.code"] = git_commit(), code_digest()
    return tags


def code_digest() -> str:
    """SHA-256 (16 digits) of every Python file of the packages: the code itself, wherever it runs, changed or not."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for package in ("laresa", "sweeps", "reports", "cluster"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def git_commit() -> str:
    """Commit of the code, "+dirty" if changed since. Outside a checkout what `laresa submit` told, or "unknown"."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LARESA_GIT_COMMIT", "unknown")
    return head.strip() + ("+dirty" if changed.strip() else "")

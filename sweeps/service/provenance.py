"""Which code, which versions, which commit stand behind the numbers."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path

from laresa.code import Code, closure, digest, raw_digest
from laresa.config import TrialConfig

LOADERS = ("emoji120", "cifar100", "cub200", "tinyimagenet")


def provenance_tags() -> dict[str, str]:
    """Versions, commit and command behind the numbers."""
    tags = {f"laresa.version.{name}": metadata.version(name) for name in ("torch", "timm", "ray", "mlflow", "optuna")}
    tags["laresa.version"] = metadata.version("laresa-sweeps")
    tags["laresa.version.python"] = platform.python_version()
    tags["laresa.git_commit"] = git_commit()
    return tags


def code_of(config: TrialConfig) -> Code:
    """The code that a configuration is learned by, as this process found it when it first asked."""
    return _found(roots_of(config))[0]


def bytes_of(config: TrialConfig) -> Mapping[str, str]:
    """name -> digest of the bytes of each file of that code: what a worker holds its own files against."""
    return _found(roots_of(config))[1]


def roots_of(config: TrialConfig) -> tuple[Path, ...]:
    """The files of what a configuration uses, where its code begins: how it trains, and its data set's loader."""
    loader = (
        "emoji120" if config.dataset.endswith(".npz") else config.dataset if config.dataset in LOADERS else "folder"
    )
    return _ours("training.py", f"data/{loader}.py")


@functools.cache
def _ours(*names: str) -> tuple[Path, ...]:
    return tuple(code_folders()[0] / name for name in names)


@functools.cache
def code_folders() -> tuple[Path, ...]:
    """The folders whose code counts."""
    spec = util.find_spec("laresa")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent,)


@functools.cache
def _found(roots: tuple[Path, ...]) -> tuple[Code, Mapping[str, str]]:
    """Once a process: a file that is changed while it runs is not what it runs; workers tell by the bytes."""
    files = closure(roots, code_folders())
    code = Code({name: digest(path) for name, path in files.items()})
    return code, {name: raw_digest(path) for name, path in files.items()}


def git_commit() -> str:
    """Commit of the code, "+dirty" if changed since. Outside a checkout what `laresa submit` told, or "unknown"."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LARESA_GIT_COMMIT", "unknown")
    return head.strip() + ("+dirty" if changed.strip() else "")

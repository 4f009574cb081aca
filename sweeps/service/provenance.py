"""Which code, which versions, which commit stand behind the numbers."""

from __future__ import annotations

import functools
import inspect
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path

from laresa.code import Code, closure, digest, raw_digest
from laresa.config import TrialConfig

SERVICE = ("sweeps", "cluster", "reports")  # runs trials and reads them; decides nothing of what is learned


def provenance_tags() -> dict[str, str]:
    """Versions, commit and command behind the numbers."""
    tags = {f"laresa.version.{name}": metadata.version(name) for name in ("torch", "timm", "ray", "mlflow", "optuna")}
    tags["laresa.version"] = metadata.version("laresa-sweeps")
    tags["laresa.version.python"] = platform.python_version()
    tags["laresa.git_commit"] = git_commit()
    return tags


def code_of(config: TrialConfig) -> Code:
    """The code that a configuration is learned by, as this process found it when it first asked."""
    return _found(roots_of(config), code_folders())[0]


def bytes_of(config: TrialConfig) -> Mapping[str, str]:
    """name -> digest of the bytes of each file of that code: what a worker holds its own files against."""
    return _found(roots_of(config), code_folders())[1]


def roots_of(config: TrialConfig) -> tuple[Path, ...]:
    """The files of what a configuration uses, where its code begins: terms, method, loader, whatever has a table."""
    from laresa.config import CHOICES
    from laresa.plugins import loaded

    used = [("TERMS", name) for name in config.parts]
    for field, kind in CHOICES.items():
        value = config.resolved.get(field)
        names = () if value is None else config.augmentations if field == "augment" else (value,)
        used += [(kind, name) for name in names]
    return _roots(tuple(used), tuple(plugin.path for plugin in loaded()))


@functools.cache  # a sweep of thousands of trials asks for a handful of combinations
def _roots(used: tuple[tuple[str, str], ...], plugins: tuple[Path, ...]) -> tuple[Path, ...]:
    from laresa.data import loader_module
    from laresa.plugins import table

    files = set()
    for kind, name in used:
        found = table(kind).get(name)
        if kind == "DATASETS":
            files.add(loader_module(name).resolve())
        elif found is not None:  # a backbone of timm's has a version instead
            files.add(Path(inspect.getfile(getattr(found, "fn", found))).resolve())
    return tuple(sorted(files))


def code_folders() -> tuple[Path, ...]:
    """The folders whose code counts: our package, and those of the plugins."""
    from laresa.plugins import loaded

    spec = util.find_spec("laresa")
    assert spec is not None
    assert spec.origin is not None
    return tuple(dict.fromkeys([Path(spec.origin).parent.resolve(), *(plugin.place for plugin in loaded())]))


@functools.cache
def _found(roots: tuple[Path, ...], folders: tuple[Path, ...]) -> tuple[Code, Mapping[str, str]]:
    """Once a process: a file that is changed while it runs is not what it runs; workers tell by the bytes."""
    files = closure(roots, folders, SERVICE)
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

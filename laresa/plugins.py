"""Plugins: terms, weightings, data sets, ... from outside come in by the same door as ours. Free of torch.

A plugin is a Python file or an importable module with plain dicts, named as in KINDS: `TERMS = {"angular": angular}`.
What ships is made of the same dicts in our own modules (BUILT_IN), so the door is proven by everything that ships.
Nothing is imported from a record or a store: only what the user names, or has installed under the entry-point group
`laresa.plugins`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from laresa.errors import ConfigError, nearest
from laresa.fields import fields_of
from laresa.measurement import SCORES
from laresa.paths import expanded

KINDS = (
    "TERMS",
    "TERM_GROUPS",
    "WEIGHTINGS",
    "DATASETS",
    "BACKBONES",
    "METHODS",
    "METRICS",
    "AUGMENTATIONS",
    "OPTIMIZERS",
    "LR_SCHEDULES",
    "SCHEDULERS",
    "STUDIES",
)
LOSSES = (
    *("cross_entropy", "hace", "bertinetto", "label_smoothing", "hierarchical_softmax"),  # base terms
    *("laresa", "devise", "tree_anchor", "cpcc"),
)
# By name and not by import: so that a term's code is what it imports, and not all there is (laresa.code).
BUILT_IN: dict[str, tuple[str, ...]] = {
    "TERMS": tuple(f"laresa.losses.{name}" for name in LOSSES),
    "TERM_GROUPS": ("laresa.losses.laresa",),
    "WEIGHTINGS": ("laresa.weighting",),
    "DATASETS": tuple(
        f"laresa.data.{name}"
        for name in (
            *("emoji120", "icons158", "cifar100", "cub200", "tinyimagenet", "fgvc_aircraft", "nabirds"),
            "fashion_mnist",
        )
    ),
    "METHODS": ("laresa.methods.end_to_end", "laresa.methods.heads"),
    "AUGMENTATIONS": ("laresa.data.augment",),
    "OPTIMIZERS": ("laresa.optimizers",),
    "LR_SCHEDULES": ("laresa.optimizers",),
}
# Their fields are called by the component's name, so a name is one component's, whatever its kind.
WITH_FIELDS = (*(kind for kind in BUILT_IN if kind != "TERM_GROUPS"), "BACKBONES")
GROUP = "laresa.plugins"


@dataclass(frozen=True, eq=False)
class Plugin:
    """What was loaded. spec: as the user named it. names: kind -> names it brings. sha256: of the file's bytes then."""

    spec: str
    path: Path
    module: str
    names: Mapping[str, tuple[str, ...]]
    sha256: str

    @property
    def is_file(self) -> bool:
        """Named by its path: it travels with a sweep. A module has to be installed wherever it is used."""
        return self.spec.endswith(".py")

    @property
    def place(self) -> Path:
        """Whose code is the plugin's: a file's folder, a module's topmost package, or a single module's own file."""
        if self.is_file:
            return self.path.parent
        top = self.path
        while (top.parent / "__init__.py").exists():
            top = top.parent
        return top


_loaded: dict[Path, tuple[Plugin, ModuleType]] = {}


def table(kind: str) -> Mapping[str, Any]:
    """name -> component of one of KINDS, ours first, then those of the plugins in the order in which they came."""
    return _table(kind, loaded())


@functools.lru_cache(maxsize=256)
def _table(kind: str, plugins: tuple[Plugin, ...]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for module in BUILT_IN.get(kind, ()):
        found |= getattr(importlib.import_module(module), kind)
    for plugin in plugins:
        found |= {name: getattr(module_of(plugin), kind)[name] for name in plugin.names.get(kind, ())}
    return found


def component(kind: str, name: str) -> Any:
    """One component. ConfigError: there is none of that name (the nearest is given)."""
    known = table(kind)
    if name not in known:
        what = kind.lower().removesuffix("s").replace("_", " ")
        raise ConfigError(
            f"unknown {what} {name!r}{nearest(name, known)} (a plugin's are known with --plugin FILE_OR_MODULE)"
        )
    return known[name]


def loaded() -> tuple[Plugin, ...]:
    return tuple(plugin for plugin, _ in _loaded.values())


def load(spec: str) -> Plugin:
    """Import a plugin by its path or module name and add what it brings; once, however often it is asked for.

    ConfigError: there is no such file or module; it does not import (its own traceback, its own lines only); it brings
    nothing, a dict that is none, a name that exists, what is no function, or a field without a type or default.
    """
    path, name = _locate(spec)
    if path in _loaded:
        return _loaded[path][0]
    digest = sha256_of(path)
    module = _import(spec, path, name)
    plugin = Plugin(spec, path, module.__name__, _names(spec, module), digest)
    _loaded[path] = (plugin, module)
    return plugin


def load_installed() -> None:
    """The plugins that installed packages offer (entry-point group `laresa.plugins`)."""
    for point in metadata.entry_points(group=GROUP):
        load(point.value.partition(":")[0])


def module_of(plugin: Plugin) -> ModuleType:
    """The plugin's module."""
    return _loaded[plugin.path][1]


def unload(plugins: Iterable[Plugin]) -> None:
    """Forget plugins: what they brought is not known any more."""
    for plugin in plugins:
        _loaded.pop(plugin.path, None)
        sys.modules.pop(plugin.module, None)
    _table.cache_clear()


def sha256_of(path: Path) -> str:
    """Of a file's bytes, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def isolated() -> Iterator[None]:
    """What is loaded inside is forgotten afterwards (for tests)."""
    before = set(_loaded)
    try:
        yield
    finally:
        unload([plugin for plugin in loaded() if plugin.path not in before])


# ---------------------------------------------------------------------- finding and importing
def _locate(spec: str) -> tuple[Path, str]:
    """(file, module name)."""
    if spec.endswith(".py") or "/" in spec:
        path = expanded(spec, "plugin").resolve()
        if not path.is_file():
            raise ConfigError(f"plugin {spec!r}: no such file: expected a Python file, or the name of a module")
        return path, f"laresa_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    try:
        found = importlib.util.find_spec(spec)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise ConfigError(
            f"plugin {spec!r}: no module of that name is installed here: expected a module, or the path of a file"
        )
    return Path(found.origin).resolve(), spec


def _import(spec: str, path: Path, name: str) -> ModuleType:
    folder = str(path.parent)
    try:
        if name == spec:
            return importlib.import_module(name)
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module  # so that its classes can be pickled and its types resolved
        if folder not in sys.path:
            sys.path.append(folder)  # a plugin may import what lies beside it
        found.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:  # whatever the user's file does while it is imported
        sys.modules.pop(name, None)
        raise ConfigError(f"plugin {spec!r} does not import:\n{_own_lines(error, path)}") from error


def _own_lines(error: BaseException, path: Path) -> str:
    """The traceback's lines in the plugin's own folder."""
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error)).rstrip()
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    lines = "".join(traceback.format_list(frames)) + "".join(traceback.format_exception_only(error))
    return lines.rstrip()


def _names(spec: str, module: ModuleType) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        brought = vars(module).get(kind)
        if brought is None:
            continue
        if not isinstance(brought, Mapping) or not all(isinstance(name, str) for name in brought):
            raise ConfigError(
                f"plugin {spec!r}: {kind} is {type(brought).__name__}: expected a dict of name: component"
            )
        for name, found in brought.items():
            _check_name(spec, kind, name, names)
            _check_component(spec, kind, name, found)
        names[kind] = tuple(brought)
    if not names and not {"add_options", "build"} <= set(vars(module)):
        raise ConfigError(f"plugin {spec!r} brings nothing: expected a dict named {', '.join(KINDS)}, or a study")
    return names


def _check_name(spec: str, kind: str, name: str, brought: Mapping[str, tuple[str, ...]]) -> None:
    if not name.isidentifier():
        raise ConfigError(f"plugin {spec!r}: {kind} has {name!r}: expected a name of letters, digits and underscores")
    for other in WITH_FIELDS if kind in WITH_FIELDS else (kind,):
        ours = name in table(other) or (kind == "METRICS" and name in SCORES)
        if ours or name in brought.get(other, ()):
            owners = (p.spec for p in loaded() if name in p.names.get(other, ()))
            owner = next(owners, "laresa itself" if ours else "it")
            among = "" if other == kind else f" among its {other}"
            raise ConfigError(
                f"plugin {spec!r}: {kind} has {name!r}, which {owner} brings already{among}: choose another name"
            )


def _check_component(spec: str, kind: str, name: str, found: Any) -> None:
    if kind not in (*WITH_FIELDS, "METRICS"):
        return
    fn = getattr(found, "fn", found)
    if not callable(fn):
        raise ConfigError(f"plugin {spec!r}: {kind} has {name!r}, which is {type(fn).__name__}: expected a function")
    try:
        fields_of(fn, name)
    except ConfigError as error:
        raise ConfigError(f"plugin {spec!r}: {kind} {error}") from error

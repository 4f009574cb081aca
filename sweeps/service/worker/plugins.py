"""Plugins travel with the sweep: their sources as text from the driver to each worker; nothing is read from a store.

A file goes with what it imports from its own folder. A module has to be installed on each host, the very same one.
"""

from __future__ import annotations

import atexit
import hashlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from laresa import plugins
from laresa.code import closure
from laresa.errors import ConfigError, LaresaError
from laresa.plugins import Plugin, sha256_of
from sweeps.service.provenance import SERVICE

DIGITS = 12  # of a digest in a message


class PluginError(LaresaError, ImportError):
    """A plugin of the sweep can't be had on this worker's host."""


@dataclass(frozen=True)
class Shipped:
    """One plugin. spec: as the user named it. files: name below its folder -> source text, of a file plugin only; the
    plugin's own is `name`. sha256: name -> of the raw bytes; of a module its own file's, under its name."""

    spec: str
    name: str
    files: Mapping[str, str]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Shipment:
    """The plugins of a sweep, in the order in which they were loaded: plain data."""

    plugins: tuple[Shipped, ...] = ()

    @property
    def files(self) -> dict[str, str]:
        """Name -> text of all that travels."""
        return {name: text for shipped in self.plugins for name, text in shipped.files.items()}

    @property
    def digests(self) -> dict[str, str]:
        """Plugin as the user named it, without its folder -> sha256 of its own file."""
        return {shipped.name: shipped.sha256[shipped.name] for shipped in self.plugins}


# ---------------------------------------------------------------------- on the driver
_packed: dict[Path, Shipped] = {}  # as first sent


def pack(loaded: Iterable[Plugin]) -> Shipment:
    """What workers need. ConfigError: a file is not what this process loaded, or what it sent before."""
    shipment = Shipment(tuple(_pack(plugin) for plugin in loaded))
    seen: dict[str, str] = {}
    for shipped in shipment.plugins:
        for name, digest in shipped.sha256.items():
            if seen.setdefault(name, digest) != digest:
                raise ConfigError(f"plugin {shipped.spec!r}: another plugin has a file {name} too: rename one of them")
    return shipment


def _pack(plugin: Plugin) -> Shipped:
    found = _shipped(plugin)
    before = {**_packed.setdefault(plugin.path, found).sha256, found.name: plugin.sha256}
    for name, now in found.sha256.items():
        if before.get(name, now) != now:
            raise ConfigError(
                f"plugin {plugin.spec!r} changed in mid-sweep: {name} has sha256 {now[:DIGITS]}… now, "
                f"{before[name][:DIGITS]}… when the sweep began: run again with the one or the other"
            )
    return found


def _shipped(plugin: Plugin) -> Shipped:
    if not plugin.is_file:
        return Shipped(plugin.spec, plugin.spec, {}, {plugin.spec: sha256_of(plugin.path)})
    files = source_files(plugin.path)
    content = {name: path.read_bytes() for name, path in files.items()}
    own = next(name for name, path in files.items() if path == plugin.path)
    try:
        texts = {name: data.decode() for name, data in content.items()}
    except UnicodeDecodeError as error:
        raise ConfigError(f"plugin {plugin.spec!r}: expected files in UTF-8 ({error})") from error
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    return Shipped(plugin.spec, own, texts, digests)


def source_files(path: Path) -> dict[str, Path]:
    """Name -> file, of a file and of all that it imports from its folder, directly or not."""
    return closure([path], [path.parent], ("laresa", *SERVICE))


# ---------------------------------------------------------------------- on a worker
_here: tuple[Shipment, Path] | None = None  # what this process has unpacked


def unpack(shipment: Shipment) -> None:
    """Make the shipment's plugins the ones that this process knows, and no others.

    Files go to a private temporary folder of the process. PluginError: a module is not installed here, or another.
    """
    global _here
    if _here is not None and _here[0] == shipment:
        return
    plugins.unload(plugins.loaded())
    if _here is not None:
        _forget(_here[1])
    folder = Path(tempfile.mkdtemp(prefix="laresa-plugins-"))  # for this user's eyes only
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _here = (Shipment(), folder)
    for number, shipped in enumerate(shipment.plugins):
        _unpack(shipped, folder / str(number))
    _here = (shipment, folder)


def _unpack(shipped: Shipped, folder: Path) -> None:
    if shipped.files:
        for name, text in shipped.files.items():
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        plugins.load(str(folder / shipped.name))
        return
    host, wanted = platform.node(), shipped.sha256[shipped.name]
    try:
        loaded = plugins.load(shipped.spec)
    except ConfigError as error:
        if "does not import" in str(error):
            raise
        raise PluginError(
            f"plugin {shipped.spec!r} (module) is not installed on host {host}: install it there or give its file"
        ) from error
    if loaded.sha256 != wanted:
        plugins.unload([loaded])
        raise PluginError(
            f"plugin {shipped.spec!r} on host {host} is another (sha256 {loaded.sha256[:DIGITS]}… here, "
            f"{wanted[:DIGITS]}… on the driver): install the same there"
        )


def _forget(folder: Path) -> None:
    """What was imported from a folder, so that another sweep's helper of the same name is not mistaken for it."""
    inside = f"{folder}/"
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(inside):
            del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(inside)]
    shutil.rmtree(folder, ignore_errors=True)

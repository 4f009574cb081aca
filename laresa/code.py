"""Which code a result was learned by: the files that are imported, and of each what it says, not how it is written.

Static: files are parsed, never run. A module that is imported by a string (importlib) is not followed: who knows such
a name gives its file as a root.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from laresa.errors import ConfigError

DIGITS = 12  # hex digits of a digest


@dataclass(frozen=True)
class Code:
    """files: name as shown to users ("laresa/losses.py", "my_terms.py") -> digest of the file's syntax tree."""

    files: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        return _sha(repr(sorted(self.files.items())).encode())

    def changed_from(self, other: Code) -> list[str]:
        """Names of the files that differ, those that only one of the two has included."""
        return sorted(n for n in {*self.files, *other.files} if self.files.get(n) != other.files.get(n))


@dataclass(frozen=True)
class _Place:
    """A folder (or one file) that counts. root: the folder above its packages, where the names of its modules begin."""

    folder: Path
    root: Path

    def files(self, module: str) -> Iterator[Path]:
        """The files that importing a module runs: its packages' and its own, as far as they lie in the folder."""
        stem = self.root
        for part in module.split("."):
            stem = stem / part
            for path in (stem / "__init__.py", stem.with_name(f"{part}.py")):
                if path.is_relative_to(self.folder) and path.is_file():
                    yield path
                    break


@dataclass(frozen=True)
class _Parsed:
    """digest: of the tree. imports: (level, module, names) as `from module import names` has them; `import x`: level 0,
    no names."""

    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]


def closure(roots: Iterable[Path], folders: Iterable[Path], outside: Iterable[str] = ()) -> dict[str, Path]:
    """name -> file of all that the roots import, directly or not, inside functions too, as far as it lies in `folders`.

    The `__init__.py` of every package on the way counts; what is imported for type checkers only does not.
    folders: packages (their files are named with the package, "laresa/losses.py"), plain folders of modules, or a file
        that stands for itself alone.
    outside: packages that are not followed, though they lie in a folder: a user's file may lie beside a whole checkout.
    ConfigError: a root lies in none of the folders, a file can't be parsed, two files would have one name.
    """
    places, found, left_out = _places(folders), dict[str, Path](), set(outside)
    waiting = [root.resolve() for root in roots]
    while waiting:
        path = waiting.pop()
        place = _place_of(path, places)
        name = path.relative_to(place.root).as_posix()
        if name in found:
            if found[name] != path:
                raise ConfigError(f"{found[name]} and {path} would both be called {name}: rename one of them")
            continue
        found[name] = path
        package = Path(name).parent.parts
        modules = [".".join(package)] if package else []
        for level, module, names in _parsed_now(path).imports:
            base = package[: len(package) - level + 1] if level else ()
            start = ".".join([*base, *([module] if module else [])])
            modules += [start, *(f"{start}.{name}" for name in names)]
        followed = [module for module in dict.fromkeys(modules) if module.partition(".")[0] not in left_out]
        waiting += [file for module in followed for other in places for file in other.files(module)]
    return dict(sorted(found.items()))


def locate(name: str, folders: Iterable[Path]) -> Path | None:
    """The file that `closure` would give that name on this machine; None where there is none."""
    paths = [place.root / name for place in _places(folders) if (place.root / name).is_relative_to(place.folder)]
    return next((path for path in paths if path.is_file()), None)


def digest(path: Path) -> str:
    """Of what a file says: comments, docstrings and formatting change nothing, on whatever version of Python."""
    return _parsed_now(path).digest


def raw_digest(path: Path) -> str:
    """Of a file's bytes."""
    return _sha(path.read_bytes())


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _places(folders: Iterable[Path]) -> list[_Place]:
    found = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        root = folder.parent if folder.is_file() else folder
        while (root / "__init__.py").exists():
            root = root.parent
        found.append(_Place(folder, root))
    return found


def _place_of(path: Path, places: Iterable[_Place]) -> _Place:
    for place in places:
        if path.is_relative_to(place.folder):
            return place
    raise ConfigError(f"{path} lies in none of the folders whose code counts")


def _parsed_now(path: Path) -> _Parsed:
    stat = path.stat()
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(4096)
def _parsed(path: Path, mtime: int, size: int) -> _Parsed:
    """mtime, size: a file that has changed is parsed again."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is no Python that can be read: {error}") from error
    imports = tuple(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _documented(node):
            node.body = node.body[1:]
    return _Parsed(_sha(repr(_plain(tree)).encode()), imports)


def _imports(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.If) and _for_type_checkers(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _for_type_checkers(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _plain(node: Any) -> Any:
    """The tree in tuples, without positions. Not ast.dump, whose text and fields differ between versions of Python:
    an empty field is left out, as an older version has none."""
    if isinstance(node, list):
        return tuple(map(_plain, node))
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name != "kind" and value not in (None, [])]
    if isinstance(node, ast.Constant):
        fields = [("value", node.value)]
    return (type(node).__name__, *((name, _plain(value)) for name, value in sorted(fields, key=lambda pair: pair[0])))

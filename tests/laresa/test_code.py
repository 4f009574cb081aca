"""What counts as the code behind a result: what is imported, and what it says."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

import laresa
from laresa.code import Code, closure, digest, locate
from laresa.errors import ConfigError

TERM = '''"""My terms."""
from laresa import losses


def angular(batch, *, gamma=2.0):
    """Angular pull, per sample."""
    from helpers import power  # when it is needed

    return power(1 - batch.cosines("fine"), gamma)
'''
HELPERS = "def power(x, y):\n    return x**y\n"
RESTYLED = """# another head
from laresa import (
    losses,
)

def angular(batch, *, gamma=2.0):
    '''Other words.'''
    from helpers import power
    return power( 1 - batch.cosines('fine'), gamma )
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def ours(folder: Path) -> Path:
    """A copy of the package, to be changed."""
    package = Path(laresa.__file__).parent
    return shutil.copytree(package, folder / "laresa", ignore=shutil.ignore_patterns("*.npz", "__pycache__"))


def code(*roots: Path, folders: list[Path]) -> Code:
    return Code({name: digest(path) for name, path in closure(roots, folders).items()})


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_of_ours_a_comment_changes_nothing_and_an_operator_does(tmp_path: Path):
    package = ours(tmp_path)
    losses = package / "losses" / "laresa.py"
    then = code(losses, folders=[package])
    assert {"laresa/__init__.py", "laresa/losses/laresa.py", "laresa/batch.py"} <= set(then.files)
    assert "laresa/losses/hace.py" not in then.files  # tables are filled by name: a term's code is its own
    assert "laresa/code.py" not in then.files
    losses.write_text(f"# another comment\n{losses.read_text()}\n\n\n# and one more\n")
    assert code(losses, folders=[package]) == then
    change(losses, "negative_N - positive_N", "negative_N + positive_N")
    now = code(losses, folders=[package])
    assert (now.changed_from(then), now.digest == then.digest) == (["laresa/losses/laresa.py"], False)


def test_of_a_plugin_too_and_what_its_functions_import(tmp_path: Path):
    package, plugin = ours(tmp_path), write(tmp_path / "mine", {"my_terms.py": TERM, "helpers.py": HELPERS})
    root, folders = plugin / "my_terms.py", [package, plugin]
    then = code(root, folders=folders)
    assert {"my_terms.py", "helpers.py", "laresa/losses/__init__.py"} <= set(then.files)
    root.write_text(RESTYLED)
    assert code(root, folders=folders) == then
    change(root, "1 - batch", "1 + batch")
    assert code(root, folders=folders).changed_from(then) == ["my_terms.py"]
    change(plugin / "helpers.py", "x**y", "x*y")
    assert code(root, folders=folders).changed_from(then) == ["helpers.py", "my_terms.py"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("import pack.a.leaf", {"pack/__init__.py", "pack/a/__init__.py", "pack/a/leaf.py"}),
        ("from pack.a import leaf as other", {"pack/__init__.py", "pack/a/__init__.py", "pack/a/leaf.py"}),
        ("from pack.a.leaf import *", {"pack/__init__.py", "pack/a/__init__.py", "pack/a/leaf.py"}),
        ("class C:\n    def f(self):\n        import pack.top", {"pack/__init__.py", "pack/top.py"}),
        ("try:\n    import pack.top\nexcept ImportError:\n    pass", {"pack/__init__.py", "pack/top.py"}),
        ("if TYPE_CHECKING:\n    import pack.top", set()),
        (
            "if typing.TYPE_CHECKING:\n    import pack.a\nelse:\n    import pack.top",
            {"pack/__init__.py", "pack/top.py"},
        ),
        ("import os, missing.module", set()),
        ("import pack.uses", {"pack/__init__.py", "pack/uses.py", "pack/top.py", "pack/a/__init__.py"}),
        ("import pack.a.up", {"pack/__init__.py", "pack/a/__init__.py", "pack/a/up.py", "pack/top.py"}),
    ],
)
def test_what_an_import_leads_to(statement: str, found: set[str], tmp_path: Path):
    relative = {"uses.py": "from . import top, a\n", "a/up.py": "from ..top import x\n"}
    modules = dict.fromkeys(("__init__.py", "top.py", "a/__init__.py", "a/leaf.py"), "x = 1\n") | relative
    write(tmp_path, {**{f"pack/{name}": text for name, text in modules.items()}, "root.py": statement + "\n"})
    assert set(closure([tmp_path / "root.py"], [tmp_path])) == {"root.py", *found}


def test_imports_in_a_circle_end(tmp_path: Path):
    write(tmp_path, {"a.py": "import b\n", "b.py": "import a\n"})
    assert set(closure([tmp_path / "a.py"], [tmp_path])) == {"a.py", "b.py"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("x = 1", "x = True"), ("x = 1", "x = 1.0"), ("x = 'a'", "x = b'a'"), ("x = a < b", "x = a <= b")],
)
def test_values_and_operators_are_told_apart(one: str, other: str, tmp_path: Path):
    write(tmp_path, {"one.py": one, "other.py": other, "spaced.py": f"{one.replace(' ', '   ')}  # the same\n"})
    assert digest(tmp_path / "one.py") != digest(tmp_path / "other.py")
    assert digest(tmp_path / "one.py") == digest(tmp_path / "spaced.py")


def test_a_docstring_is_no_code_and_another_string_is(tmp_path: Path):
    for name, text in (("none", "pass"), ("doc", '"""Doc."""\n    pass'), ("value", 'return "Doc."')):
        write(tmp_path, {f"{name}.py": f"def f():\n    {text}\n"})
    found = {name: digest(tmp_path / f"{name}.py") for name in ("none", "doc", "value")}
    assert found["none"] == found["doc"] != found["value"]


def test_a_digest_is_the_same_on_every_version_of_python(tmp_path: Path):
    text = "def f(a, /, b=1, *, c: int = 2, **d):\n    return f'{a!r:>{b}} {c}' if {**d} else [x async for x in d]\n"
    write(tmp_path, {"a.py": text.replace("def", "async def")})
    assert digest(tmp_path / "a.py") == "939d53211805"


def test_what_cant_be_read_or_told_apart_is_named(tmp_path: Path):
    one, two = write(tmp_path / "one", {"a.py": "x = (\n"}), write(tmp_path / "two", {"a.py": "x = 1\n"})
    with pytest.raises(ConfigError, match=r"one/a\.py is no Python that can be read"):
        closure([one / "a.py"], [one])
    change(one / "a.py", "(", "1")
    with pytest.raises(ConfigError, match=r"would both be called a\.py"):
        closure([one / "a.py", two / "a.py"], [one, two])
    with pytest.raises(ConfigError, match=r"two/a\.py lies in none of the folders"):
        closure([two / "a.py"], [one])


def test_a_name_leads_back_to_its_file(tmp_path: Path):
    package, plugin = ours(tmp_path), write(tmp_path / "mine", {"my_terms.py": TERM, "helpers.py": HELPERS})
    for name, path in closure([plugin / "my_terms.py"], [package, plugin]).items():
        assert locate(name, [package, plugin]) == path
    assert locate("mine/my_terms.py", [package, plugin]) is None

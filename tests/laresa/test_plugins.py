"""Plugins: how they come in, and what a bad one is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from laresa import plugins
from laresa.config import TrialConfig, all_fields
from laresa.data import Dataset
from laresa.errors import ConfigError, DataError
from laresa.measurement import better
from laresa.training import train

Load = Callable[..., plugins.Plugin]
ANGULAR = """
    from typing import Annotated
    from laresa.fields import Doc, Range

    def angular(batch, *, gamma: Annotated[float, Range(0.5, 8, log=True), Doc("how sharply")] = 2.0):
        return (1 - batch.cosines("fine")) ** gamma

    TERMS = {"angular": angular}
"""


# ---------------------------------------------------------------------- good ones
def test_a_file_brings_its_components_with_their_fields(plugin: Load) -> None:
    before = set(all_fields())
    found = plugin(ANGULAR)
    assert found.names == {"TERMS": ("angular",)}
    assert found.is_file
    assert set(all_fields()) - before == {"angular.gamma"}
    assert all_fields()["angular.gamma"].range.log
    config = TrialConfig(subset="angular+ce", gamma=3)
    assert (config.subset, config["angular.gamma"]) == ("ce+angular", 3.0)
    assert plugins.load(found.spec) is found
    assert [p.spec for p in plugins.loaded()] == [found.spec]


def test_a_module_comes_in_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "terms.py").write_text("def flat(batch):\n    return batch.z_ND.mean()\nTERMS = {'flat': flat}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with plugins.isolated():
        found = plugins.load("mine_of_test.terms")
        assert not found.is_file
        assert (found.module, found.path) == ("mine_of_test.terms", (package / "terms.py").resolve())
        assert TrialConfig(subset="ce+flat").parts == ("ce", "flat")


def test_what_is_loaded_in_isolation_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for field in ("first", "second"):  # the same file with another content
        file.write_text(
            f"def own(batch, *, {field}: float = 1.0):\n    return batch.z_ND.mean()\nTERMS = {{'own': own}}\n"
        )
        with plugins.isolated():
            found = plugins.load(str(file))
            assert [name for name in all_fields() if name.startswith("own.")] == [f"own.{field}"]
        assert found.module not in sys.modules
        with pytest.raises(ConfigError, match="unknown term 'own'"):
            _ = TrialConfig(subset="ce+own").resolved


def test_a_plugin_may_import_what_lies_beside_it(plugin: Load, tmp_path: Path) -> None:
    (tmp_path / "beside_it_of_test.py").write_text("def own(batch):\n    return batch.z_ND.mean()\n")
    assert plugin("from beside_it_of_test import own\nTERMS = {'own': own}\n").names == {"TERMS": ("own",)}
    sys.modules.pop("beside_it_of_test")


# ---------------------------------------------------------------------- bad ones
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("TERMS = {}\nimport nosuchmodule", r"(?s)does not import:.*mine.py.*line 2.*No module named 'nosuchmodule'"),
        ("def f(:", r"(?s)does not import:.*mine.py.*line 1.*SyntaxError"),
        ("import sys\nsys.exit(3)", r"(?s)does not import:.*line 2.*SystemExit: 3"),
        ("x = 1", r"brings nothing: expected a dict named TERMS, "),
        ("TERMS = ['angular']", r"TERMS is list: expected a dict of name: component"),
        ("TERMS = {3: print}", r"TERMS is dict: expected a dict of name: component"),
        ("TERMS = {'a-b': print}", r"TERMS has 'a-b': expected a name of letters, digits and underscores"),
        ("TERMS = {'own': 3}", r"TERMS has 'own', which is int: expected a function"),
        ("TERMS = {'anchor': print}", r"TERMS has 'anchor', which laresa itself brings already: choose another name"),
        ("TERMS = {'softmax': print}", r"TERMS has 'softmax', which laresa itself brings already among its WEIGHTINGS"),
        ("METRICS = {'top1': print}", r"METRICS has 'top1', which laresa itself brings already"),
        (
            "def own(batch, *, gamma=2.0): ...\nTERMS = {'own': own}",
            r"TERMS own: its field 'gamma' has no type: expected a type and a default, as in `gamma: float = 1.0`",
        ),
        ("def own(batch, *, gamma: float): ...\nTERMS = {'own': own}", r"TERMS own: its field 'gamma' has no default"),
        (
            "def own(batch, *, gamma: 'Flaot' = 1.0): ...\nTERMS = {'own': own}",
            r"the type of a field can't be read .*Flaot.*: import it in the module",
        ),
        (
            "def own(x): ...\nTERMS, WEIGHTINGS = {'own': own}, {'own': own}",
            r"WEIGHTINGS has 'own', which it brings already among its TERMS",
        ),
    ],
)
def test_a_bad_plugin_is_told_what_is_wrong_and_leaves_nothing(plugin: Load, source: str, message: str) -> None:
    fields = dict(all_fields())
    with pytest.raises(ConfigError, match=message):
        plugin(source)
    assert not plugins.loaded()
    assert all_fields() == fields


def test_of_a_failed_import_only_its_own_lines_are_shown(plugin: Load) -> None:
    with pytest.raises(ConfigError) as error:
        plugin("import json\ndef broken():\n    json.loads('{')\nbroken()\nTERMS = {}\n")
    text = str(error.value)
    assert text.count("File ") == text.count('mine.py", line') == 2
    assert "json.loads('{')" in text
    assert "importlib" not in text
    assert "JSONDecodeError" in text


def test_a_plugin_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.py': no such file"):
        plugins.load(str(tmp_path / "absent.py"))
    for name in ("nosuchmodule", "nosuch.module", "laresa.", ""):
        with pytest.raises(ConfigError, match="no module of that name"):
            plugins.load(name)


def test_two_plugins_with_one_name(plugin: Load) -> None:
    first = plugin(ANGULAR)
    with pytest.raises(ConfigError) as error:
        plugin(ANGULAR, "other")
    assert f"TERMS has 'angular', which {first.spec} brings already" in str(error.value)
    with pytest.raises(ConfigError, match=r"WEIGHTINGS has 'angular', which .*mine.py brings already among its TERMS"):
        plugin("WEIGHTINGS = {'angular': print}", "third")
    assert len(plugins.loaded()) == 1


# ---------------------------------------------------------------------- wrong when it is used
HEAD = """
    from typing import Annotated
    import torch
    from laresa.fields import Learned, Memory
    from laresa.terms import Term
"""
MEMORY = "m: Annotated[torch.Tensor, Memory] = (0.0, 0.0)"


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("own(batch): return 3.0", r"term 'own' gave float: expected a tensor, a loss per sample or one in all"),
        ("own(batch): return None", r"term 'own' gave NoneType"),
        (
            "own(batch): return batch.z_ND",
            r"term 'own' gave a loss of shape \(\d+, 384\): expected one per sample, \(\d+,\)",
        ),
        ("own(batch): return batch.view_ND.mean(), {}", r"term 'own' needs a second view of each image: declare"),
        ("own(batch): return batch.cosines('fien')", r"term 'own' asks for level 'fien'"),
        (
            "own(batch): return batch.z_ND.mean(), {'m': batch.z_ND}",
            r"term 'own' returns 'm' to keep: expected nothing",
        ),
        (f"own(batch, *, {MEMORY}): return m.sum(), {{'n': m}}", r"term 'own' returns 'n' to keep: expected m, what"),
        (f"own(batch, *, {MEMORY}): return m.sum(), {{'m': 3}}", r"returns 'm' of int: expected a tensor \(2,\)"),
        (
            f"own(batch, *, {MEMORY}): return m.sum(), {{'m': m[:1]}}",
            r"returns 'm' of \(1,\): expected a tensor \(2,\)",
        ),
    ],
)
def test_what_a_term_gives_is_looked_at(
    plugin: Load, tiny: Dataset, config: TrialConfig, term: str, message: str
) -> None:
    plugin(f"{HEAD}\n    def {term}\n    TERMS = {{'own': own}}\n")
    with pytest.raises(ConfigError, match=message):
        next(train(config.replace(subset="ce+own"), dataset=tiny))


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        (
            "AUGMENTATIONS = {'own': lambda x, y, g: 3}",
            {"augment": "own"},
            r"augmentation 'own' gave int: expected images",
        ),
        (
            "AUGMENTATIONS = {'own': lambda x, y, g: x[1:]}",
            {"augment": "own"},
            r"'own' gave \(\d+, 3, 16, 16\): expected",
        ),
        (
            "AUGMENTATIONS = {'own': lambda x, y, g: x[0]}",
            {"augment": "own"},
            r"'own' gave \(3, 16, 16\): expected images",
        ),
        (
            "AUGMENTATIONS = {'own': lambda x, y, g: (x, y)}",
            {"augment": "own"},
            r"gave targets \(\d+,\): expected \[\d+, 6\]",
        ),
        ("METRICS = {'own': lambda *a: None}", {"epochs": 99}, r"metric 'own' gave NoneType: expected a number"),
        (
            "DATASETS = {'own': lambda *a: 3}",
            {"dataset": "own"},
            r"data set 'own' gave int: expected a laresa.data.Dataset",
        ),
        (
            "import torch\nBACKBONES = {'own': lambda s, p: torch.nn.Identity()}",
            {"backbone": "own"},
            r"shape .*\[N, width\]",
        ),
    ],
)
def test_what_other_components_give_is_looked_at(
    plugin: Load, tiny: Dataset, config: TrialConfig, source: str, fields: dict[str, Any], message: str
) -> None:
    plugin(source)
    data = None if "dataset" in fields else tiny
    with pytest.raises((ConfigError, DataError), match=message):
        next(train(config.replace(**fields), dataset=data))


def test_which_way_a_metric_is_better_is_its_own_word(plugin: Load) -> None:
    plugin("from laresa.metrics import Metric\nMETRICS = {'ece': Metric(abs, 'min'), 'f1': abs}\n")
    assert [better(name) for name in ("test/ece", "test/f1", "val/loss", "val/top1")] == ["min", "max", "min", "max"]


@pytest.mark.usefixtures("one_thread")
def test_our_term_in_a_plugin_learns_the_same_to_the_bit(plugin: Load, tiny: Dataset, config: TrialConfig) -> None:
    """The door is the same door: a copy of the anchor under another name gives the same numbers."""
    plugin(
        """
        from typing import Annotated
        from torch import Tensor
        from laresa.fields import Learned
        from laresa.terms import Term

        def copy(batch, *, beta: Annotated[Tensor, Learned] = (1.0, 1.0)):
            weights = beta.softmax(0)
            return (1 - batch.cosines("fine")) * weights[0] + (1 - batch.cosines("coarse")) * weights[1]

        TERMS = {"copy": Term(copy, tree=True)}
        """
    )
    ours, theirs = (
        list(train(config.replace(subset=f"ce+{name}", epochs=2), dataset=tiny)) for name in ("anchor", "copy")
    )
    for one, other in zip(ours, theirs, strict=True):
        for name in ("train/loss", "train/loss_ce", "weight/ce", "val/loss", "val/top1"):
            assert one.metrics[name] == other.metrics[name]
        assert one.metrics["train/loss_anchor"] == other.metrics["train/loss_copy"]
        logits = torch.tensor([other.metrics["copy.beta.0"], other.metrics["copy.beta.1"]])
        assert one.metrics["beta/fine"] == logits.softmax(0)[0].item()

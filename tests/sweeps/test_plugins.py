"""Plugins on their way to a worker, and what the command line makes of files, modules and studies."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laresa import plugins
from laresa.config import TrialConfig
from laresa.errors import ConfigError
from sweeps.cli.main import build_parser, main
from sweeps.cli.studies import find_study
from sweeps.cli.submit import UPLOADED, command_line, uploaded
from sweeps.service.worker import plugins as travelling
from sweeps.service.worker.plugins import PluginError, Shipment, pack, unpack
from tests.sweeps.plugins import TERMS, write_plugins


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder, as current one; what is loaded in it is forgotten afterwards."""
    write_plugins(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(travelling, "_packed", {})
    with plugins.isolated():
        yield tmp_path
        unpack(Shipment())
    sys.modules.pop("my_gammas", None)


# ---------------------------------------------------------------------- from driver to worker
def test_a_file_travels_with_what_it_imports_from_beside_it(folder: Path):
    (folder / "unused.py").write_text("raise SystemExit\n")
    shipment = pack([plugins.load("my_terms.py"), plugins.load("my_study.py")])
    assert set(shipment.files) == {"my_terms.py", "my_study.py", "my_gammas.py"}
    for path in folder.glob("my_*.py"):
        path.unlink()  # the worker's host has none of them
    sys.modules.pop("my_gammas")
    unpack(shipment)
    assert TrialConfig(subset="ce+angular", gamma=3.0).values("angular") == {"gamma": 3.0}
    places = [plugin.path for plugin in plugins.loaded()]
    assert all(folder not in place.parents for place in places)
    assert stat.S_IMODE(places[0].parents[1].stat().st_mode) == 0o700
    assert plugins.module_of(plugins.loaded()[1]).GAMMAS == "1,3"


def test_a_worker_of_another_sweep_knows_the_other_plugins_only(folder: Path):
    first = pack([plugins.load("my_study.py")])
    sys.path.remove(str(folder))  # the worker's host has no such folder
    del sys.modules["my_gammas"]
    unpack(first)
    other = folder / "other"
    other.mkdir()
    (other / "their_terms.py").write_text(TERMS.replace("angular", "their") + "import my_gammas\n")
    (other / "my_gammas.py").write_text('GAMMAS = "theirs"\n')
    second = Shipment((travelling._shipped(plugins.Plugin("their_terms.py", other / "their_terms.py", "x", {}, "")),))
    unpack(second)
    assert [plugin.path.name for plugin in plugins.loaded()] == ["their_terms.py"]
    assert plugins.module_of(plugins.loaded()[0]).my_gammas.GAMMAS == "theirs"
    assert not any("laresa-plugins" in entry for entry in sys.path if not Path(entry).exists())
    before = plugins.loaded()
    unpack(second)
    assert plugins.loaded() == before  # asked for again, nothing is loaded again


def test_a_module_that_the_host_lacks_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(folder))
    shipment = pack([plugins.load("my_terms")])
    assert shipment.files == {}
    monkeypatch.setattr(travelling.platform, "node", lambda: "worker7")
    (folder / "my_terms.py").write_text(TERMS + "# edited\n")
    with pytest.raises(PluginError, match=r"'my_terms' on host worker7 is another \(sha256 \w{12}… here, \w{12}… on"):
        unpack(shipment)
    (folder / "my_terms.py").unlink()
    with pytest.raises(PluginError, match=r"'my_terms' \(module\) is not installed on host worker7: install it there"):
        unpack(shipment)


@pytest.mark.parametrize("name", ["my_study.py", "my_gammas.py"])
def test_a_plugin_that_changes_in_mid_sweep_is_refused(folder: Path, name: str):
    loaded = [plugins.load("my_study.py")]
    pack(loaded)
    (folder / name).write_text((folder / name).read_text() + "# edited\n")
    with pytest.raises(ConfigError, match=rf"changed in mid-sweep: {name} has sha256 \w{{12}}… now, \w{{12}}… when"):
        pack(loaded)


def test_two_files_of_one_name_are_refused(folder: Path):
    (folder / "sub").mkdir()
    (folder / "sub" / "my_terms.py").write_text(TERMS.replace("angular", "other"))
    with pytest.raises(ConfigError, match=r"another plugin has a file my_terms\.py too"):
        pack([plugins.load("my_terms.py"), plugins.load("sub/my_terms.py")])


# ---------------------------------------------------------------------- the command line
def test_a_study_is_found_by_name_file_and_module(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_study("ablation").__name__ == "sweeps.ablation"
    assert find_study("my_study.py").GAMMAS == "1,3"
    monkeypatch.syspath_prepend(str(folder))
    with plugins.isolated():
        assert find_study("sweeps.search").__name__ == "sweeps.search"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ablatoin", "unknown study 'ablatoin'; did you mean 'ablation'"),
        ("nowhere.py", "no file 'nowhere.py' here .*`laresa submit` its plugins too"),
        ("my_terms.py", "study 'my_terms.py' has no add_options and no build"),
        ("my_gammas.py", "plugin 'my_gammas.py' brings nothing"),
    ],
)
def test_what_is_no_study_is_said(folder: Path, spec: str, message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["run", spec]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_plugins_study_has_a_name(folder: Path):
    (folder / "named.py").write_text("import my_study\nSTUDIES = {'gammas': my_study}\n")
    words = ["plan", "gammas", "--plugin", "my_terms.py", "--plugin=named.py", "--gammas", "2"]
    args = build_parser(words).parse_args(words)
    (cell,) = find_study(args.study).build(args).cells
    assert cell.config["angular.gamma"] == 2.0


def test_a_study_without_options_of_its_own_can_run(folder: Path):
    (folder / "bare.py").write_text("def add_options(parser): pass\ndef build(args): return args\n")
    words = ["run", "bare.py", "--storage", "s"]
    assert build_parser(words).parse_args(words).storage == "s"


def test_help_ends_with_the_fields_a_plugins_too(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main(["run", "my_study.py", "--plugin", "my_terms.py", "--help"])
    shown = capsys.readouterr().out
    assert "--gammas" in shown
    assert re.search(r"angular\.gamma +\[float, default 2\.0, search 0\.5:8:log\]", shown)
    assert main(["fields", "--json", "--plugin", "my_terms.py"]) == 0
    known = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert known["angular.gamma"]["range"] == [0.5, 8, True]


def test_plugin_check_ends_with_one_where_something_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "untyped.py").write_text(
        "def mine(batch, *, gamma=2.0): return batch.z_ND.sum(1)\nTERMS = {'mine': mine}\n"
    )
    assert main(["plugin", "check", "untyped.py"]) == 1
    assert "its field 'gamma' has no type" in capsys.readouterr().out
    (folder / "still.py").write_text("def mine(batch): return batch.z_ND.detach().sum(1)\nTERMS = {'mine': mine}\n")
    assert main(["plugin", "check", "still.py"]) == 1
    assert re.search(r"term mine +gradient .* no gradient reaches z or logits", capsys.readouterr().out)


def test_a_study_file_runs_as_a_script(folder: Path):
    """Python calls it __main__; what is asked for and built is the plugin's."""
    command = [sys.executable, "my_study.py", "--plugin", "my_terms.py", "--help"]
    place = str(Path(__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": place})
    assert done.returncode == 0, done.stderr
    assert "laresa run my_study.py" in done.stdout.replace(str(folder) + "/", "")
    assert "angular.gamma" in done.stdout


# ---------------------------------------------------------------------- to a cluster
def test_submit_uploads_a_study_and_its_plugins(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The head's shell unpacks them where the arguments say, for this user's eyes only."""
    given = ["my_study.py", "--plugin=my_terms.py", "--sweep", "a b; touch x", "--plugin", "installed.module"]
    words, upload = uploaded(given)
    home = tmp_path_factory.mktemp("home")
    subprocess.run(["bash", "-c", f"{upload}true"], check=True, env={**os.environ, "HOME": str(home)})
    assert words[2:] == given[2:]
    study = Path(words[0].replace("~", str(home)))
    assert (study.parent / "my_gammas.py").read_text() == 'GAMMAS = "1,3"\n'
    assert study.read_bytes() == (folder / "my_study.py").read_bytes()
    terms = Path(words[1].removeprefix("--plugin=").replace("~", str(home)))
    assert terms.read_bytes() == (folder / "my_terms.py").read_bytes()
    assert stat.S_IMODE((home / UPLOADED.removeprefix("~/")).stat().st_mode) == 0o700
    assert "'a b; touch x'" in command_line(words)
    assert uploaded(given)[0] == words  # submitted again, the same paths
    assert uploaded(["ablation", "--seeds", "0"]) == (["ablation", "--seeds", "0"], "")


def test_submit_names_a_file_that_is_not_here_or_too_large(folder: Path):
    with pytest.raises(ConfigError, match=r"no file 'nowhere\.py' here"):
        uploaded(["ablation", "--plugin", "nowhere.py"])
    (folder / "large.py").write_text(f"DATA = '{os.urandom(100_000).hex()}'\n")
    with pytest.raises(ConfigError, match="expected 90000 at most"):
        uploaded(["large.py"])

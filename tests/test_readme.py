"""What the README tells a user to type exists."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laresa import plugins
from laresa.taxonomy import Taxonomy
from sweeps.cli.fields import as_markdown
from sweeps.cli.main import build_parser, main
from tests.readme import FILES, README, write_files

COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^\$ (laresa .*)$", README, re.MULTILINE)]
INLINE = re.findall(r"`(laresa (?:ui|data|run|rerun|plan|best|status|report|fields|submit)[^`]*)`", README)


def test_the_five_verbs_and_more_are_there():
    verbs = {shlex.split(command)[1] for command in COMMANDS}
    assert verbs >= {"plan", "run", "status", "best", "report", "data"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder with the files of the README, as current one."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("LARESA_HOME", str(tmp_path / "home"))
    with plugins.isolated():
        yield tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS + INLINE)
def test_every_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]):
    words = shlex.split(command)[1:]
    if len(words) > 1 or words == ["ui"]:
        build_parser(words).parse_args(words)
    else:  # only named in a sentence
        assert help_of(capsys, *words)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", FILES)
def test_the_files_of_the_readme_pass_their_check(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plugin", "check", name]) == 0, capsys.readouterr().out
    assert sum(map(bool, FILES[name].splitlines())) <= 25


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [command for command in COMMANDS if re.search(r"my_\w+\.py", command)])
def test_what_the_readme_runs_can_be_planned(command: str, capsys: pytest.CaptureFixture[str]):
    """Each run of a plugin or own study, as a plan: its configurations are built and signed."""
    verb, *words = shlex.split(command)[1:]
    if verb in ("run", "plan"):
        assert main(["plan", *words, "--json"]) == 0, capsys.readouterr().err
        assert isinstance(json.loads(capsys.readouterr().out), list)


def test_there_is_a_file_for_each_door():
    text = "\n".join(FILES.values())
    kinds = set(plugins.KINDS) - {"TERM_GROUPS", "STUDIES", "OPTIMIZERS", "LR_SCHEDULES"}  # told in a sentence
    assert {kind for kind in kinds if f"\n{kind} = {{" not in text} == set()
    assert all(kind in README for kind in plugins.KINDS)


def test_the_table_of_fields_is_what_laresa_fields_prints():
    assert as_markdown() in README


@pytest.mark.parametrize("target", ["demo", "test", "bench", "lint", "setup"])
def test_every_make_target_exists(target: str):
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([*words, "--help"])
    return capsys.readouterr().out


def test_every_option_exists(capsys: pytest.CaptureFixture[str]):
    commands = (
        "run ablation",
        "run embeddings",
        "run search",
        "plan ablation",
        "best",
        "report",
        "ui",
        "data get",
        "data coarsen",
    )
    shown = "".join(help_of(capsys, *command.split()) for command in commands)
    options = set(re.findall(r"`(--[a-z-]+)", README))
    assert options
    assert {option for option in options if option not in shown} == set()


def test_the_taxonomy_of_the_example_is_one():
    groups = re.search(r'taxonomy.json +(\{"groups".*\})', README)
    assert groups
    assert Taxonomy.from_groups(json.loads(groups[1])["groups"]).leaves == 4


def test_the_figure_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / path).is_file()

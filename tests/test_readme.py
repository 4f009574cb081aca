"""What the README tells a user to type exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from laresa.taxonomy import Taxonomy
from sweeps.cli.main import build_parser

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^\$ (laresa .*)$", README, re.MULTILINE)]
INLINE = re.findall(r"`(laresa (?:ui|data|run|rerun|plan|best|status|report)[^`]*)`", README)


def test_the_five_verbs_and_more_are_there():
    verbs = {shlex.split(command)[1] for command in COMMANDS}
    assert verbs >= {"plan", "run", "status", "best", "report", "data"}


@pytest.mark.parametrize("command", COMMANDS + INLINE)
def test_every_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]):
    words = shlex.split(command)[1:]
    if len(words) > 1 or words == ["ui"]:
        build_parser().parse_args(words)
    else:  # only named in a sentence
        assert help_of(capsys, *words)


@pytest.mark.parametrize("target", ["demo", "test", "bench", "lint", "setup"])
def test_every_make_target_exists(target: str):
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([*words, "--help"])
    return capsys.readouterr().out


def test_every_option_exists(capsys: pytest.CaptureFixture[str]):
    commands = ("run ablation", "run search", "plan ablation", "best", "ui")
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

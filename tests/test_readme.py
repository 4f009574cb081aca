"""What the README tells a user to type exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from laresa.taxonomy import Taxonomy
from sweeps.cli import build_parser

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^\$ (laresa .*)$", README, re.MULTILINE)]
INLINE = re.findall(r"`(laresa (?:ui|data|run|rerun|plan|best|status|report)[^`]*)`", README)


def test_the_five_verbs_and_more_are_there():
    verbs = {shlex.split(command)[1] for command in COMMANDS}
    assert verbs >= {"plan", "run", "status", "best", "report", "data"}


@pytest.mark.parametrize("command", COMMANDS + INLINE)
def test_every_command_is_understood(command: str):
    words = shlex.split(command)[1:]
    build_parser().parse_args(words)


@pytest.mark.parametrize("target", ["demo", "test", "bench", "lint", "setup"])
def test_every_make_target_exists(target: str):
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_option_of_the_table_exists(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["run", "ablation", "--help"])
    text = capsys.readouterr().out
    options = set(re.findall(r"`(--[a-z-]+)", README))
    shown = {option for option in options if option in text}
    assert options - shown <= {"--stop", "--help", "--json", "--trials"}  # of other commands


def test_the_taxonomy_of_the_example_is_one():
    groups = re.search(r'taxonomy.json +(\{"groups".*\})', README)
    assert groups
    assert Taxonomy.from_groups(json.loads(groups[1])["groups"]).leaves == 4


def test_the_figure_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / path).is_file()

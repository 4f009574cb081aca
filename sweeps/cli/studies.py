"""What STUDY and --plugin name: one function finds a study, and plugins are loaded before argparse sees its options."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from laresa import plugins
from laresa.errors import ConfigError, nearest, printable
from laresa.paths import expanded
from sweeps.cli.errors import DEBUG

STUDIES = {
    name: f"sweeps.{name}" for name in ("ablation", "embeddings", "search", "hierarchy", "probe", "paper", "demo")
}
PARTS = ("add_options", "build")  # of a study: a module, or whatever else has them
WITH_STUDY = ("run", "plan")
WITH_PLUGINS = (*WITH_STUDY, "demo", "rerun", "fields")
SUBMIT_HINT = "`ray submit` uploads a study file alone, `laresa submit` its plugins too"


def find_study(spec: str) -> Any:
    """A study by its name (ours, or a plugin's under STUDIES), its file, or its module: has add_options and build.

    A file or module is loaded as a plugin, which it is. ConfigError: there is no such study, or it lacks a part.
    """
    if spec in STUDIES:
        return importlib.import_module(STUDIES[spec])
    known = plugins.table("STUDIES")
    if taken := set(STUDIES) & set(known):
        raise ConfigError(f"a plugin's STUDIES has {taken.pop()!r}, which laresa itself brings: choose another name")
    if spec in known:
        study = known[spec]
    elif is_file(spec) or "." in spec or _is_module(spec):
        study = plugins.module_of(load_plugin(spec))
    else:
        raise ConfigError(
            f"unknown study {spec!r}{nearest(spec, study_names())} (or a file or module with add_options and build)"
        )
    if lacks := [part for part in PARTS if not callable(getattr(study, part, None))]:
        raise ConfigError(
            f"study {spec!r} has no {' and no '.join(lacks)}: expected add_options(parser) and build(args) -> Study"
        )
    return study


def study_names() -> tuple[str, ...]:
    return (*STUDIES, *plugins.table("STUDIES"))


def is_file(spec: str) -> bool:
    """Whether a plugin or study is named by its path."""
    return spec.endswith(".py") or "/" in spec


def _is_module(spec: str) -> bool:
    try:
        return importlib.util.find_spec(spec) is not None
    except (ImportError, ValueError):
        return False


def load_plugin(spec: str) -> plugins.Plugin:
    """`laresa.plugins.load`; where a file is missing, the message says how it gets to a cluster."""
    if is_file(spec) and not expanded(spec, "plugin").is_file():
        raise ConfigError(f"no file {spec!r} here (in {Path.cwd()}): {SUBMIT_HINT}")
    return plugins.load(spec)


def preload(words: Sequence[str]) -> str | None:
    """Load the plugins that a command line names, and what is installed as one; its STUDY where the verb has one.

    Nothing where another verb stands: of `laresa submit` the head loads them.
    """
    first = Parser(prog="laresa", add_help=False)
    first.add_argument("--plugin", action="append", default=[])
    place = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    verb, after = "".join(words[place : place + 1]), list(words[place + 1 :])
    if verb not in WITH_PLUGINS:
        return None
    plugins.load_installed()
    found, rest = first.parse_known_args(after)
    for spec in found.plugin:
        load_plugin(spec)
    names = [word for word in rest if not word.startswith("-")]
    return names[0] if verb in WITH_STUDY and names else None


class _Loaded(argparse.Action):
    """`preload` has done it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        pass


def add_plugin_option(parser: Any) -> None:
    parser.add_argument(
        "--plugin",
        action=_Loaded,
        dest=argparse.SUPPRESS,
        metavar="FILE_OR_MODULE",
        help="terms, weightings, data sets, ... of your own (README.md: Open doors); repeatable",
    )


class Parser(argparse.ArgumentParser):
    """No option may be abbreviated: --schedule, which is a field, would be taken for --scheduler."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        # `main` looks for it itself: a command line may not be understood at all.
        self.add_argument(
            DEBUG, action="store_true", default=argparse.SUPPRESS, help="where something fails, show the traceback"
        )

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: --([\w.-]+)", message):
            from laresa.config import all_fields

            name = unknown[1].replace("-", "_")
            if any(name in (known, known.rpartition(".")[2]) for known in all_fields()):
                message += f" ({name} is a field: --set {name}=VALUE)"
        super().error(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Where --scale tiny is given, other options have other defaults; what is given wins, wherever it stands."""
        if "--scale" in self._option_string_actions:
            first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            first.add_argument("--scale", nargs="?")  # whether it has a value, the whole parser says
            if first.parse_known_args(args)[0].scale == "tiny":
                from sweeps.options import tiny_defaults

                # What a namespace holds is not replaced by defaults.
                known = {action.dest: action.default for action in self._actions}
                namespace = argparse.Namespace(
                    **{**tiny_defaults(known, self.get_default("tiny")), **(vars(namespace) if namespace else {})}
                )
        return super().parse_known_args(args, namespace)


class StudyParser(Parser):
    """Its help ends with the fields that --set, --space and --subsets may name, of what is loaded."""

    def format_help(self) -> str:
        from sweeps.cli.fields import as_text

        return f"{super().format_help()}\nfields (--set FIELD=VALUE):\n{as_text()}\n"


def add_study_parsers(verb: argparse.ArgumentParser, given: str | None) -> list[StudyParser]:
    """A parser for each study that has a name, and for the one that is given as a file or module."""
    add_plugin_option(verb)
    studies = verb.add_subparsers(dest="study", required=True, metavar="STUDY", parser_class=StudyParser)
    names = study_names()
    found = []
    for spec in names if given is None or given in names else (*names, given):
        study = find_study(spec)
        parser = studies.add_parser(
            spec, help=((getattr(study, "__doc__", None) or "").strip().splitlines() or [""])[0]
        )
        study.add_options(parser)
        if "--storage" not in parser.format_usage():
            from sweeps.options import add_run_options

            add_run_options(parser)
        add_plugin_option(parser)
        found.append(parser)
    return found

"""The studies that have a name, and the parsers of the verbs that take one."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from typing import Any

STUDIES = {"ablation": "sweeps.ablation", "search": "sweeps.search"}


def study_module(name: str) -> Any:
    """The module with `add_options(parser)` and `build(args) -> Study`."""
    return importlib.import_module(STUDIES[name])


def add_studies(parser: Any, handler: Callable[[argparse.Namespace], int]) -> Iterator[Any]:
    """A subparser for each study, with its options."""
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name in STUDIES:
        module = study_module(name)
        study = studies.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        module.add_options(study)
        study.set_defaults(handler=handler)
        yield study

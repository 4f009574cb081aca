"""Templates of the page: files beside this one, in which every text is escaped unless it is Markup."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def render(name: str, **data: Any) -> Markup:
    """The template filled in. A name that it asks for and `data` lacks is an error."""
    return Markup(_environment().get_template(name).render(data))


def own_text(name: str) -> Markup:
    """A file of this folder as it is: our own style sheet or script, nothing from outside."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

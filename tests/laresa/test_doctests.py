"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["taxonomy", "config", "losses.hace", "losses.laresa"])
def test_examples(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"laresa.{name}"))
    assert done.attempted > 0
    assert done.failed == 0

"""A tiny data set that a tiny network learns in a second."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from laresa import plugins
from laresa.config import TrialConfig
from laresa.data import Dataset, Split
from laresa.taxonomy import Taxonomy

GROUPS = {"pet": ["cat", "dog"], "vehicle": ["truck", "car"], "fruit": ["apple", "pear"]}


def tiny_split(count: int, seed: int) -> Split:
    """Class i is a picture of its own brightness pattern under noise: learnable, not trivial."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 6
    patterns = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = patterns[labels] * 150 + torch.rand(count, 3, 16, 16, generator=generator) * 105
    return Split(images.to(torch.uint8), labels)


@pytest.fixture(scope="session")
def tiny() -> Dataset:
    tree = Taxonomy.from_groups(GROUPS)
    half = (0.5, 0.5, 0.5)
    splits = [tiny_split(count, seed) for seed, count in enumerate((50, 24, 24))]
    return Dataset("tiny", tree, *splits, half, half, "fold 0 of 1", "0123456789abcdef")


@pytest.fixture
def config() -> TrialConfig:
    return TrialConfig(
        dataset="tiny", backbone="test_vit", input_size=32, batch_size=16, epochs=4, patience=4, lr=1e-3, seed=1
    )


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Callable[..., plugins.Plugin]]:
    """plugin(source, name="mine"): the file name.py, written and loaded; forgotten after the test."""

    def load(source: str, name: str = "mine") -> plugins.Plugin:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return plugins.load(str(path))

    with plugins.isolated():
        yield load


@pytest.fixture(scope="session")
def registry() -> None:
    """An npm registry that answers, and what draws; else the test is skipped."""
    pytest.importorskip("resvg_py", reason="the extra 'build' is not installed")
    if shutil.which("npm") is None:
        pytest.skip("no npm client")
    try:
        asked = subprocess.run(
            ["npm", "view", "@iconify-json/noto", "name"], capture_output=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("no npm registry answers within a minute")
    if asked.returncode:
        pytest.skip("no npm registry answers")

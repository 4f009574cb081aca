"""What all tests share."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch
from hypothesis import settings

settings.register_profile("laresa", deadline=None)  # a machine may be loaded
settings.load_profile("laresa")

# Two run side by side (`make test`): neither may join the other's Ray, nor take the port its server is about to bind.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["RAY_TMPDIR"] = f"{tempfile.gettempdir()}/ray-{worker}"
    os.environ["LARESA_PORT"] = str(5100 + int(worker.removeprefix("gw")))


@pytest.fixture
def one_thread():
    """Sums depend on how many threads share them: equal to the bit means the same number, and trials here have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

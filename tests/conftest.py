"""What all tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def one_thread():
    """Sums depend on how many threads share them: equal to the bit means the same number, and trials here have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

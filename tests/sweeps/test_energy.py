"""A GPU's own count of energy: read where a trial has it to itself, and never in the way."""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace

import pytest
import torch

from sweeps.service.worker import session
from sweeps.service.worker.energy import JOULES, LIBRARY, meter_of, nvml_meter
from tests.sweeps.test_groups import Several, several, to_the_end  # noqa: F401 (a fixture)


class Nvml(SimpleNamespace):
    """As much of the library as is asked: 1,500 millijoules more at each look."""

    def __init__(self, *, known: bool = True, counts: bool = True) -> None:
        super().__init__(known=known, counts=counts, used=0)

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: object) -> int:
        return 0 if self.known and uuid == b"GPU-1" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object, used: object) -> int:
        self.used += 1500
        ctypes.cast(used, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.used
        return 0 if self.counts else 3


def test_it_is_read_in_joules_and_none_where_nobody_counts():
    found = nvml_meter("GPU-1", lambda name: Nvml() if name == LIBRARY else None)
    first = found()
    assert found() - first == 1.5

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    assert nvml_meter("GPU-1", missing) is None
    assert nvml_meter("GPU-2", lambda name: Nvml()) is None
    assert nvml_meter("GPU-1", lambda name: Nvml(counts=False)) is None


def test_a_share_of_a_gpu_and_the_cpu_have_none():
    assert meter_of(torch.device("cpu"), 1.0) is None
    assert meter_of(torch.device("cuda"), 0.5) is None


@pytest.mark.parametrize("failing", [False, True])
def test_each_epoch_has_its_own(several, monkeypatch: pytest.MonkeyPatch, failing: bool):  # noqa: F811
    used = iter([10.0, 12.0, 12.0, math.nan if failing else 15.0, *[20.0] * 99])
    monkeypatch.setattr(session, "meter_of", lambda device, gpus: lambda: next(used))
    alone: Several = several("energy", epochs=(3,))
    to_the_end(alone.worker())
    history = alone.stored[0].outcome()["history"]
    assert [row["metrics"].get(JOULES) for row in history] == [2.0, None if failing else 3.0, 0.0]

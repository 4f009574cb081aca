"""What a GPU has used of energy, by its driver's own count; a trial's only where it has the GPU to itself."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

JOULES = "energy/joules"  # of an epoch
LIBRARY = "libnvidia-ml.so.1"


def meter_of(device: torch.device, gpus: float) -> Callable[[], float] | None:
    """Joules that the device has used since its driver was loaded; None: a share of a GPU, the CPU, or nobody counts.

    NVML counts from Volta on (nvmlDeviceGetTotalEnergyConsumption, in thousandths of a joule).
    """
    if device.type != "cuda" or gpus < 1:
        return None
    import torch

    return nvml_meter(f"GPU-{torch.cuda.get_device_properties(device).uuid}", ctypes.CDLL)


def nvml_meter(uuid: str, load: Callable[[str], Any]) -> Callable[[], float] | None:
    """load: opens a shared library. None: it is not there, or does not count this GPU's."""
    try:
        library = load(LIBRARY)
    except OSError:
        return None
    handle, used = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return None

    def read() -> float:
        failed = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used))
        return float("nan") if failed else used.value / 1000

    return None if math.isnan(read()) else read

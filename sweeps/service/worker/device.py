"""The device a trial trains on: the one that Ray gave it, whatever else this process could see.

Ray hides no GPU from a worker that asked for none, and hides nothing at all where an administrator has told it so
(RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES). So the rest is hidden here, before anything on the worker opens CUDA.
"""

from __future__ import annotations

import os
import platform

import ray
import torch

from laresa.errors import LaresaError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def trial_device(gpus: float) -> torch.device:
    """On a worker: the CPU for a trial that asked for no GPU, else the one CUDA device that Ray gave it.

    LaresaError, naming the host, where Ray gave another number of GPUs or torch can't use the one it gave.
    """
    if not gpus:
        os.environ[VISIBLE] = ""
        return torch.device("cpu")
    given = [str(number) for number in ray.get_gpu_ids()]
    if len(given) != 1:
        raise LaresaError(f"{platform.node()}: expected one GPU from Ray for a trial, was given {given or 'none'}")
    os.environ[VISIBLE] = given[0]
    if not torch.cuda.is_available():
        raise LaresaError(
            f"{platform.node()}: Ray gave a trial GPU {given[0]}, torch {torch.__version__} finds no CUDA there: look "
            "at nvidia-smi and the driver, start this host's Ray with --num-gpus=0, or give --gpus-per-trial 0"
        )
    if (seen := torch.cuda.device_count()) != 1:  # CUDA was opened before the others could be hidden
        raise LaresaError(
            f"{platform.node()}: Ray gave a trial GPU {given[0]}, but torch sees {seen}: something opened CUDA when it "
            "was imported; a module must not touch a device before its trial begins"
        )
    return torch.device("cuda", 0)

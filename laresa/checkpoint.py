"""One file a checkpoint: safetensors with the JSON state in its header, replaced atomically. No pickle."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from laresa.errors import CheckpointError

FORMAT = 1


Stateful = nn.Module | torch.optim.Optimizer


def pack(parts: Mapping[str, Stateful]) -> dict[str, Tensor]:
    """The tensors of a training state under flat names ("model/weight", "optimizer/3/exp_avg")."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
            continue
        for index, group in enumerate(part.param_groups):  # lr, which a loop may have changed
            numbers = {key: value for key, value in group.items() if isinstance(value, float)}
            tensors |= {
                f"{name}/group-{index}/{key}": torch.tensor(value, dtype=torch.float64)
                for key, value in numbers.items()
            }
        for index, slots in part.state_dict()["state"].items():
            tensors |= {
                f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in slots.items() if value is not None
            }
    return tensors


def unpack(tensors: Mapping[str, Tensor], parts: Mapping[str, Stateful]) -> None:
    """Put what `pack` gave back in place."""
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            part.load_state_dict(under(f"{name}/", tensors))
        else:
            _unpack_optimizer(under(f"{name}/", tensors), part)


def _unpack_optimizer(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, slot = name.split("/")
        if index.startswith("group-"):
            optimizer.param_groups[int(index.removeprefix("group-"))][slot] = value.item()
        else:
            state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == parameter.shape:
                # The file keeps no memory layout; the parameter's own means the same kernels and the same bits.
                slots[name] = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and state to `path`; whoever reads sees the old file or the new one, never half.

    CheckpointError: the disk is full or the folder not writable; the file that was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    joined, index = _join(tensors)
    header = {"format": str(FORMAT), "state": json.dumps(state, allow_nan=True), "index": json.dumps(index)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(joined, temporary, metadata=header)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"checkpoint {path} could not be written ({error}): check space and rights there; "
            "the checkpoint before it is intact, the same command continues from it"
        ) from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state) of a file that `save` wrote. CheckpointError if it is damaged or of a newer format."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            joined = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} can't be read ({error})") from error
    if header.get("format") != str(FORMAT):
        raise CheckpointError(f"checkpoint {path} has format {header.get('format')!r}: this version reads {FORMAT!r}")
    return _split(joined, json.loads(header["index"])), json.loads(header["state"])


def _join(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[tuple[str, str, list[int]]]]:
    """All tensors of a type end to end in one, and (name, type, shape) in order.

    A small network has hundreds of small tensors; one by one they would take a twentieth of its epoch to write.
    """
    groups: dict[str, list[Tensor]] = {}
    index = []
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        groups.setdefault(kind, []).append(tensor.detach().reshape(-1).cpu())
        index.append((name, kind, list(tensor.shape)))
    return {kind: torch.cat(parts) for kind, parts in groups.items()}, index


def _split(joined: Mapping[str, Tensor], index: list[tuple[str, str, list[int]]]) -> dict[str, Tensor]:
    starts = dict.fromkeys(joined, 0)
    tensors = {}
    for name, kind, shape in index:
        count = math.prod(shape)
        tensors[name] = joined[kind][starts[kind] : starts[kind] + count].reshape(shape).clone()
        starts[kind] += count
    return tensors

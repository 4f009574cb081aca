"""One file a checkpoint: safetensors with the JSON state in its header, and a checksum over all of it. No pickle."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from laresa.errors import CheckpointError
from laresa.files import atomic_write

FORMAT = 2


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

    StorageError: the disk is full or the folder not writable; the file that was there before is untouched.
    """
    joined, index = _join(tensors)
    header = {"format": str(FORMAT), "state": json.dumps(state, allow_nan=True), "index": json.dumps(index)}
    header["checksum"] = _checksum(joined, header)
    write_tensors(path, joined, header)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state) of a file that `save` wrote. CheckpointError: one bit of it is another, or its format is."""
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            joined = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # a damaged header makes it raise almost anything
        raise CheckpointError(f"checkpoint {path} can't be read ({error})") from error
    if header.pop("checksum", None) != _checksum(joined, header):
        raise CheckpointError(f"checkpoint {path} is damaged: its content is not what was written")
    if header["format"] != str(FORMAT):
        raise CheckpointError(f"checkpoint {path} has format {header['format']!r}: this version reads {FORMAT!r}")
    return _split(joined, json.loads(header["index"])), json.loads(header["state"])


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """A safetensors file, as `atomic_write` writes one."""

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=dict(header or {}))
        except SafetensorError as error:  # it hides what the system said in a text
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code)) from error

    atomic_write(path, write)


def _checksum(joined: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Of what the file says, however it lies there. A CRC: it finds every single flip, at the speed of memory."""
    found = zlib.crc32(json.dumps(sorted(header.items())).encode())
    for name, tensor in sorted(joined.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


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

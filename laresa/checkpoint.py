"""One file a checkpoint: safetensors with the JSON state in its header, replaced atomically. No pickle."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from laresa.errors import CheckpointError

FORMAT = 1


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and state to `path`; whoever reads sees the old file or the new one, never half.

    CheckpointError: the disk is full or the folder not writable; the file that was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    header = {"format": str(FORMAT), "state": json.dumps(state, allow_nan=True)}
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(flat, temporary, metadata=header)
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} can't be read ({error})") from error
    if header.get("format") != str(FORMAT):
        raise CheckpointError(f"checkpoint {path} has format {header.get('format')!r}: this version reads {FORMAT!r}")
    return tensors, json.loads(header["state"])

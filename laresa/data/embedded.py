"""Reading the data sets that come with the package, and other builds of theirs."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laresa.errors import DataError


@lru_cache(maxsize=4)
def read(name: str, path: str | Path | None, wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
    """The arrays of the embedded file `name`.npz, or of another build at path; labels as int64. The caller copies.

    DataError: a file that can't be read, or that lacks one of `wanted`.
    """
    source = resources.files("laresa.data") / f"{name}.npz" if path is None else Path(path)
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (OSError, ValueError) as error:
        raise DataError(f"{source} can't be read: {error}") from error
    if missing := wanted - set(arrays):
        raise DataError(f"{source} is no build of {name}: no array {', '.join(sorted(missing))}")
    return {**arrays, "labels": arrays["labels"].astype(np.int64)}

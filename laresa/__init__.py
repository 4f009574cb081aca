"""LARESA: classifiers trained with label semantics. Names load when first used, so that a query needs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from laresa.config import TrialConfig
from laresa.measurement import Measurement

if TYPE_CHECKING:
    from laresa import losses, metrics
    from laresa.taxonomy import Taxonomy
    from laresa.training import train

__all__ = ["Measurement", "Taxonomy", "TrialConfig", "losses", "metrics", "train"]
_HOME = {"Taxonomy": "laresa.taxonomy", "train": "laresa.training"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in ("losses", "metrics"):
        value = importlib.import_module(f"laresa.{name}")
    else:
        raise AttributeError(f"module 'laresa' has no attribute {name!r}")
    globals()[name] = value
    return value

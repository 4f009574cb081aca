"""The losses, a file a paper: one pure function an equation, and the terms made of them.

Names load when first used, so that a file of this room is no part of the code of a trial that does not use it.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "anchor_loss": "laresa",
    "triplet_loss": "laresa",
    "center_loss": "laresa",
    "variance_loss": "laresa",
    "hace_loss": "hace",
    "hxe_loss": "bertinetto",
    "soft_label_loss": "bertinetto",
    "hierarchical_softmax_loss": "hierarchical_softmax",
    "cpcc_loss": "cpcc",
    "tree_anchor_loss": "tree_anchor",
    "devise_loss": "devise",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'laresa.losses' has no attribute {name!r}")
    return getattr(importlib.import_module(f"laresa.losses.{_HOME[name]}"), name)

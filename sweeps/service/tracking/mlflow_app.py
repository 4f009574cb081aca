"""MLflow's own application, as the local server runs it (`mlflow server --app-name laresa`)."""

from __future__ import annotations

import gc
from typing import Any


def create_app() -> Any:
    """It looks for garbage less often: a page of 1,000 runs makes 50,000 objects, and half its time went into that."""
    from mlflow.server.fastapi_app import app

    gc.set_threshold(100_000, 20, 20)
    return app

"""MLflow's own application with our bulk endpoint, as our servers run it (`mlflow server --app-name ...`)."""

from __future__ import annotations

import gc
import hmac
import logging
import os
from collections.abc import Callable, Collection, MutableMapping, Sequence
from typing import Any

log = logging.getLogger("laresa.mlflow")


def create_app() -> Any:
    """`laresa`, the local server's: who knows its address may do everything, as with MLflow's own routes."""
    from mlflow.server.fastapi_app import app

    from sweeps.service.tracking.local_server import SECRET

    _prepare(lambda experiments: experiments)
    return BelowSecret(app, os.environ[SECRET])


class BelowSecret:
    """An ASGI application that answers below /<secret>/ alone: other users of the host reach the port, too."""

    def __init__(self, app: Any, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        given, slash, rest = scope["path"][1:].partition("/")
        if not hmac.compare_digest(given.encode(), self._secret):
            return await _answer(scope, send, 404)
        if not slash:  # MLflow's page asks for what lies beside it
            return await _answer(scope, send, 307, [(b"location", b"/" + self._secret + b"/")])
        raw = scope.get("raw_path") or scope["path"].encode()
        return await self._app({**scope, "path": f"/{rest}", "raw_path": raw[len(self._secret) + 1 :]}, receive, send)


async def _answer(
    scope: MutableMapping[str, Any], send: Any, status: int, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    else:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b""})


def create_authenticated_app() -> Any:
    """`laresa-auth`, a team's: MLflow's basic-auth application. Who may write what is decided by its own rules."""
    from mlflow.server import auth

    from sweeps.service.tracking.bulk import PATH

    _prepare(_permitted)
    # It asks who calls before any of its routes; each entry's permission is asked by the route itself.
    auth.BEFORE_REQUEST_VALIDATORS.update({(PATH, method): auth._allow_authenticated for method in ("GET", "POST")})
    return auth.create_app()


def _prepare(permitted: Callable[[Collection[str]], Collection[str]]) -> None:
    from mlflow.server import app

    gc.set_threshold(100_000, 20, 20)  # a page of 1,000 runs makes 50,000 objects, and half its time went into garbage
    try:
        from sweeps.service.tracking.bulk_server import add_route
    except ImportError as error:  # it writes MLflow's tables itself, and this MLflow may keep them elsewhere
        log.warning("without the bulk endpoint, runs are written one by one: %s", error)
        return
    add_route(app, permitted)


def _permitted(experiments: Collection[str]) -> Collection[str]:
    """Those in which the caller may both make runs and change them: what MLflow asks for create_run and log_batch."""
    from mlflow.server import auth

    if auth.sender_is_admin():
        return experiments
    name = auth.authenticate_request().username
    return [found for found in experiments if _may_write(auth, name, found)]


def _may_write(auth: Any, username: str, experiment_id: str) -> bool:
    experiment = (auth.RESOURCE_TYPE_EXPERIMENT, experiment_id)
    change = [
        auth.Requirement(auth.RESOURCE_TYPE_EXPERIMENT, experiment_id, "read"),
        auth.Requirement(auth.RESOURCE_TYPE_RUN, "*", "update", fallback_if_no_grant=(experiment,)),
    ]
    return bool(
        auth._authorize_create_in_experiment_as(username, experiment_id, auth.RESOURCE_TYPE_RUN)
        and auth.authorize(username, experiment, change)
    )

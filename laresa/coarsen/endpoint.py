"""One request to an OpenAI-compatible endpoint, and what of it may be tried again.

The key goes into one header and nowhere else: it is not in messages, logs, the cache, nor shown by `repr`.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from laresa.errors import ConfigError, DataError, printable

log = logging.getLogger(__name__)

URL, MODEL, KEY = "LARESA_LLM_URL", "LARESA_LLM_MODEL", "LARESA_LLM_KEY"
TIMEOUT = 120.0  # seconds
LIMIT = 16 * 2**20  # bytes of an answer
AGAIN = frozenset({408, 409, 425, 429})  # and all 5xx
LONGEST = 60.0  # seconds between two requests, whatever the server asks for
SHOWN = 200  # characters of a server's own words
SECRET = 8  # characters: a part of the key that long is not shown


@dataclass(frozen=True)
class Endpoint:
    """url: the base, such as https://api.openai.com/v1. timeout: seconds a request may take."""

    url: str
    model: str
    key: str = field(repr=False)
    timeout: float = TIMEOUT


class TryAgainError(Exception):
    """What may be otherwise the next time. after: seconds that the server asks to wait."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


def endpoint_of(url: str | None = None, model: str | None = None, timeout: float = TIMEOUT) -> Endpoint:
    """From the options and, where they leave something open, the environment; the key from there alone.

    ConfigError names all that is missing, or what can't be used.
    """
    said = {URL: url, MODEL: model, KEY: None}
    found = {name: (value or os.environ.get(name, "")).strip() for name, value in said.items()}
    options = {URL: " or --llm-url", MODEL: " or --llm-model", KEY: ""}
    missing = [f"{name}{options[name]}" for name, value in found.items() if not value]
    if missing:
        raise ConfigError(f"--llm needs {', '.join(missing)}: an OpenAI-compatible endpoint, its model, its key")
    base, key = found[URL].rstrip("/"), found[KEY]
    try:
        parts = urllib.parse.urlsplit(base)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or "@" in base or "?" in base or "#" in base or not re.fullmatch(r"[!-~]+", base):
        raise ConfigError(f"{URL}: expected a base like https://HOST/v1, without account or query ({KEY} has the key)")
    if not re.fullmatch(r"[!-~]+", key):  # http.client would show it in its own message
        raise ConfigError(f"{KEY} holds blanks or characters that no header may have")
    if not 0 < timeout <= 3600:
        raise ConfigError(f"--llm-timeout {timeout:g}: expected seconds, above 0 and at most 3600")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        log.warning("%s: by http the key and the class names can be read on their way", base)
    return Endpoint(base, found[MODEL], key, timeout)


def chat(endpoint: Endpoint, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> str:
    """The text of the model's answer, by the schema if the server keeps to it. One request; temperature 0.

    TryAgainError: a full or broken server, a timeout, an answer that is none. DataError: a refusal that would be one
    the next time too, such as of the key.
    """
    body = {
        "model": endpoint.model,
        "messages": list(messages),
        "temperature": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "groups", "strict": True, "schema": schema},
        },
    }
    request = urllib.request.Request(
        f"{endpoint.url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {endpoint.key}", "Content-Type": "application/json"},
    )
    try:
        raw = _read(request, endpoint.timeout)
    except urllib.error.HTTPError as error:
        _refused(error, endpoint)
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            raise TryAgainError(f"no answer within {endpoint.timeout:g} s") from None
        raise TryAgainError(f"the endpoint can't be reached ({type(cause).__name__}: {cause})"[:SHOWN]) from None
    return _text(raw, endpoint)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along, to whatever host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _read(request: urllib.request.Request, timeout: float) -> bytes:
    """The body; TimeoutError also for one that comes drop by drop, which a socket's own timeout lets pass."""
    until, parts, size = time.monotonic() + timeout, list[bytes](), 0
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as reply:
        while part := reply.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > LIMIT:
                raise TryAgainError(f"an answer of more than {LIMIT >> 20} MiB")
            if time.monotonic() > until:
                raise TimeoutError
    return b"".join(parts)


def _refused(error: urllib.error.HTTPError, endpoint: Endpoint) -> NoReturn:
    status = error.code
    if status in (401, 403):  # servers repeat parts of the key there: their words are left out
        raise DataError(f"{endpoint.url} refuses the key (HTTP {status}): see {KEY}") from None
    if status in AGAIN or status >= 500:
        raise TryAgainError(f"HTTP {status}", _after(error.headers.get("Retry-After"))) from None
    if 300 <= status < 400:
        raise DataError(f"{endpoint.url} sends elsewhere (HTTP {status}): give the address itself, --llm-url") from None
    try:
        said = error.read(2**16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        said = ""
    words = "" if _leaks(said, endpoint.key) else printable(" ".join(said.split()))[:SHOWN]
    raise DataError(
        f"{endpoint.url} refuses the request for model {endpoint.model!r} (HTTP {status}){': ' if words else ''}{words}"
    ) from None


def _leaks(text: str, key: str) -> bool:
    size = min(SECRET, len(key))
    return any(key[start : start + size] in text for start in range(len(key) - size + 1))


def _after(text: str | None) -> float | None:
    """Retry-After is seconds or a date (RFC 9110, 10.2.3); None for neither."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST) if seconds == seconds else None


def _text(raw: bytes, endpoint: Endpoint) -> str:
    try:
        choice = json.loads(raw)["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise TryAgainError("what came back is no chat completion") from None
    if isinstance(refusal, str) and refusal and not content:
        raise TryAgainError("the model refuses to answer")
    if choice.get("finish_reason") == "length":
        raise TryAgainError("the answer was cut off at the model's limit of tokens")
    if not isinstance(content, str) or not content.strip():
        raise TryAgainError("the answer is empty")
    if len(endpoint.key) >= SECRET and endpoint.key in content:  # it would be kept in files
        raise TryAgainError("the answer repeats the key")
    return content

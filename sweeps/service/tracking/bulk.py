"""The client of the bulk endpoint: many runs in one request, where the server is ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PATH = "/api/2.0/laresa/runs"
VERSION = 1  # of what is said there: bulk_server
ENTRIES_A_REQUEST, METRICS_A_REQUEST = 250, 20_000
AWAY = frozenset({408, 429, 502, 503, 504})  # answers of a server that may be asked again


class Bulk:
    """The endpoint of one server, which is asked once whether it has it."""

    def __init__(self, api: Any) -> None:
        self._credentials = getattr(api._tracking_client.store, "get_host_creds", None)
        self._there: bool | None = None if self._credentials else False

    def post(self, entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
        """An answer an entry; None: MLflow's own API is to be asked, for there is no endpoint, or it can't do this.

        MlflowException: the server is away.
        """
        answers: list[Mapping[str, Any]] = []
        for part in _parts(entries):
            if not self._is_there():
                return None
            answer = self._request("POST", {"runs": part})
            if answer.status_code != 200:  # what is wrong, and with which run, is for MLflow to say
                self._there = answer.status_code not in (404, 405)
                return None
            answers += answer.json()["runs"]
        return answers

    def _is_there(self) -> bool:
        if self._there is None:
            answer = self._request("GET")
            ours = answer.status_code == 200 and "json" in answer.headers.get("Content-Type", "")
            self._there = ours and answer.json().get("laresa_bulk") == VERSION
        return self._there

    def _request(self, method: str, body: Mapping[str, Any] | None = None) -> Any:
        from mlflow.utils.rest_utils import http_request

        assert self._credentials is not None
        # Written here, for `requests` refuses NaN, which a metric may be.
        data = {} if body is None else {"data": json.dumps(body)}
        headers = {"Content-Type": "application/json"}
        return http_request(self._credentials(), PATH, method, extra_headers=headers, retry_codes=AWAY, **data)


def _parts(entries: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Requests of bounded size: a transaction holds up whoever else writes."""
    part, metrics = list[Mapping[str, Any]](), 0
    for entry in entries:
        more = len(entry.get("metrics", ()))
        if part and (len(part) == ENTRIES_A_REQUEST or metrics + more > METRICS_A_REQUEST):
            yield part
            part, metrics = [], 0
        part.append(entry)
        metrics += more
    if part:
        yield part

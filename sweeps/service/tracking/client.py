"""The one door to MLflow's client: which store, which experiment, and how runs are asked for.

Nowhere else are experiments opened, values quoted or pages turned. MLflow is imported when it is first needed.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.launch import healthy
from laresa.config import write_text
from laresa.errors import ConfigError, DamagedError, nearest, printable
from laresa.files import make_folder, sync_file, sync_folder
from sweeps.service.tracking.local_server import LocalServer, TrackingError
from sweeps.service.tracking.schema import make_store

# The client's own back-off lasts minutes; ours knows what still has to be sent.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

PAGE = 1000  # runs or experiments in one answer
HISTORY = "history.json"  # the artifact that holds a trial's measurements by epoch
LATENTS = "latents"  # artifact folder of latents of single epochs
SCHEMES = r"https?|sqlite|(postgresql|mysql|mssql)(\+\w+)?|databricks"  # of tracking stores
SQLITE = b"SQLite format 3\0"  # how a database begins
VIEW = "laresa"  # the view of MLflow's runs table that `write` keeps on a sweep's experiment


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def refused(error: Exception) -> bool:
    """Whether trying again is useless: the server understood and said no, or the fault is ours."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, DamagedError):
        return True
    if isinstance(error, RestException):
        return error.error_code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
    return not isinstance(error, (MlflowException, OSError))


# ---------------------------------------------------------------------- which store


def check(uri: str) -> None:
    """TrackingError, now rather than after hours of training: nothing answers, or it is no database. ConfigError: no
    address of a tracking store, or one that tells a password, which is not repeated."""
    scheme, colon, rest = uri.partition("://")
    if not colon or not re.fullmatch(SCHEMES, scheme):
        raise ConfigError(f"tracking URI {printable(uri)!r}: expected http://HOST:PORT of a server, or sqlite:///FILE")
    if scheme == "sqlite":
        _check_database(uri)
    if not scheme.startswith("http"):
        return
    if "@" in rest:
        raise ConfigError(
            f"tracking URI {scheme}://...@...: others can read a command line; expected no user and password in it, "
            "but MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
        )
    if not healthy(uri, timeout=10):
        raise TrackingError(
            f"no MLflow server answers at {uri}: start it, correct --tracking-uri (or MLFLOW_TRACKING_URI), "
            "or leave both out for a local server"
        )


def check_given(uri: str | None) -> None:
    """`check` of the store that is given or stands in the environment, else of the local server's."""
    given, server = uri or os.environ.get("MLFLOW_TRACKING_URI"), LocalServer()
    if given or server.folder.is_dir():
        check(given or server.store)


def _check_database(uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    try:
        there = uri.startswith("sqlite:///") and path.name not in ("", ":memory:") and path.parent.is_dir()
        with path.open("rb") if there and path.exists() else io.BytesIO() as file:
            start = file.read(len(SQLITE))
    except OSError as error:
        raise TrackingError(f"tracking URI {uri!r} can't be used: {error.strerror}") from error
    if not there:
        raise ConfigError(f"tracking URI {uri!r}: expected sqlite:///FILE in a folder that exists")
    if start not in (b"", SQLITE):
        raise TrackingError(f"{path} is no sqlite database, or a damaged one: expected one of MLflow's")


def reading_uri(uri: str | None, *, files: bool = False) -> str:
    """Where to read: as given, else MLFLOW_TRACKING_URI, else the local server, else its database without a server.

    files: what runs keep is to be read too, which a server alone hands out: the local one is started where none runs.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        check(uri)
        return uri
    server = LocalServer()
    if url := server.url():
        return url
    if not nothing_tracked(server.store):
        check(server.store)
        if files:
            return server.wait(server.launch())
    return server.store


def nothing_tracked(uri: str) -> bool:
    """Whether `uri` is a database that does not exist: to ask it anything would make it."""
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


# ---------------------------------------------------------------------- which experiment


def find_experiment(api: Any, sweep: str) -> Any:
    """The experiment of that name; None if there is none. TrackingError: the server refuses the name."""
    from mlflow.exceptions import MlflowException

    try:
        return api.get_experiment_by_name(sweep)
    except MlflowException as error:
        raise TrackingError(f"the tracking server refused the sweep {sweep!r}: {error}") from error


def open_experiment(uri: str, sweep: str) -> tuple[Any, str]:
    """(client, experiment id) of a sweep. ConfigError: the store knows no such sweep."""
    if nothing_tracked(uri):
        raise ConfigError(f"no sweep {sweep!r}: nothing was tracked in {uri.removeprefix('sqlite:///')} yet")
    api = client(uri)
    experiment = find_experiment(api, sweep)
    if experiment is None:
        known = [found.name for found in experiments(api) if found.name != "Default"]
        raise ConfigError(f"no sweep {sweep!r} at {uri}{nearest(sweep, known)}")
    return api, experiment.experiment_id


def make_experiment(uri: str, sweep: str) -> tuple[Any, str]:
    """As open_experiment; what does not exist is made. ConfigError: it was deleted in MLflow."""
    from mlflow.exceptions import MlflowException

    make_store(uri)
    api = client(uri)
    experiment = find_experiment(api, sweep)
    check_active(experiment, sweep)
    try:
        return api, experiment.experiment_id if experiment else api.create_experiment(sweep)
    except MlflowException as error:
        raise TrackingError(f"the tracking server at {uri} refused the sweep {sweep!r}: {error}") from error


def check_active(experiment: Any, sweep: str) -> None:
    """ConfigError: it was deleted in MLflow. None is none yet."""
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise ConfigError(f"sweep {sweep!r} was deleted in MLflow: restore it there, or choose another --sweep")


def experiments(api: Any) -> Iterator[Any]:
    """All active experiments of the store."""
    return _pages(lambda token: api.search_experiments(max_results=PAGE, page_token=token))


def parent_run(api: Any, experiment_id: str) -> Any:
    """The run that stands for the sweep itself; None where there is none."""
    found = api.search_runs([experiment_id], matching("tags.laresa.kind", "sweep"), max_results=1)
    return found[0] if found else None


def sweep_url(uri: str, experiment_id: str) -> str:
    """Where a sweep's trials open in MLflow's UI: as training runs, not as a chat bot's, and in our view."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


# ---------------------------------------------------------------------- which runs


def matching(field: str, value: Any, operator: str = "=") -> str:
    """One condition on runs. field: "tags.NAME", "params.NAME"; whatever stands in the value stays inside it.

    A parameter is kept as `write_text` has it, a tag as it is: a signature may be a number's digits.
    """
    kind, _, name = field.partition(".")
    quoted = (str(value) if kind == "tags" else write_text(value)).replace("'", "''")
    return f"{kind}.`{name}` {operator} '{quoted}'"


SUPERSEDED = "laresa.superseded"  # "true": trained anew by other code; the run stays, and no query finds it
UNRECORDED = "unrecorded"  # the code of a run that tells none
IS_TRIAL = f"{matching('tags.laresa.kind', 'trial')} AND tags.`{SUPERSEDED}` IS NULL"


def trial_runs(
    api: Any, experiment_ids: Sequence[str], *conditions: str, newest_first: bool = False, page: int = PAGE
) -> Iterator[Any]:
    """The runs of trials under all the conditions, oldest first; fetched a page at a time, as they are taken."""
    return _pages(
        lambda token: trial_page(api, experiment_ids, *conditions, newest_first=newest_first, size=page, token=token)
    )


def trial_page(
    api: Any,
    experiment_ids: Sequence[str],
    *conditions: str,
    newest_first: bool = False,
    size: int = PAGE,
    token: str | None = None,
) -> Any:
    """One page of `trial_runs`: a list whose `token` opens the next, None for the last."""
    order = [f"attributes.start_time {'DESC' if newest_first else 'ASC'}"]
    text = " AND ".join((IS_TRIAL, *conditions))
    return api.search_runs(list(experiment_ids), text, max_results=size, order_by=order, page_token=token)


def run_or_none(api: Any, run_id: str) -> Any:
    """The run of that id; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return api.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


# ---------------------------------------------------------------------- what a run keeps


def fetch_artifact(uri: str, run: Any, name: str, folder: Path) -> Path:
    """A run's artifact file, copied to the folder; by one request."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    # What every store of artifacts implements; MlflowClient asks for the run and a listing first: ten times as long.
    get_artifact_repository(run.info.artifact_uri, tracking_uri=uri)._download_file(name, str(folder / name))
    return folder / name


def put_artifacts(uri: str, artifact_uri: str, files: Iterable[tuple[Path, str | None]]) -> None:
    """Files to where a run keeps them, each with the folder there. The run is not asked for, as MlflowClient would.

    Those of this machine are on the disk then: what storage has of them is deleted next.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = get_artifact_repository(artifact_uri, tracking_uri=uri)
    here = _folder_here(uri, artifact_uri, place)
    for path, folder in files:
        if here is not None:
            make_folder(here / (folder or ""))  # MLflow would not sync the names of those it makes
        place.log_artifact(str(path), folder)
        if here is not None:
            sync_file(here / (folder or "") / path.name)
            sync_folder(here / (folder or ""))


def _folder_here(uri: str, artifact_uri: str, place: Any) -> Path | None:
    """Where on this machine a run's artifacts lie; None where that is another server's affair."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if isinstance(place, LocalArtifactRepository):
        return Path(place.artifact_dir).absolute()
    scheme, _, rest = artifact_uri.partition(":")
    if scheme == "mlflow-artifacts" and uri == LocalServer().known_url():
        return LocalServer().folder / "artifacts" / rest.lstrip("/")
    return None


def fetch_artifacts(api: Any, run_id: str, folder: Path) -> Path:
    """The folder of all that a run keeps, copied below `folder`. TrackingError: they can't be had."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(api.download_artifacts(run_id, "", str(folder)))
    except MlflowException as error:
        raise TrackingError(f"the artifacts of run {run_id} can't be fetched: {error}") from error

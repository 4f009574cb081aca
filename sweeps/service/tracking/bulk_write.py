"""Many runs written in one transaction: MLflow's own tables, through its store's session, under its rules.

A run that is gone or deleted is refused, a parameter never changes, the latest value of a metric is the one of the
greatest (step, timestamp, value), and what is there already is not written again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import LifecycleStage, RunStatus, SourceType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER
from mlflow.utils.uri import append_to_uri_path
from sqlalchemy import text, tuple_
from sqlalchemy.dialects import postgresql, sqlite

# Databases whose "insert, unless it is there" we speak.
INSERT: Mapping[str, Callable[..., Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
# Experiment ids -> those in which the caller may make runs and change them.
Permitted = Callable[[Collection[str]], Collection[str]]


@dataclass(frozen=True)
class Entry:
    """What is asked of one run (bulk_server), under MLflow's rules on names and values.

    run_id: None where the run is found, or made. metrics: columns of MLflow's table, the value as it was sent.
    """

    run_id: str | None
    experiment_id: str
    find: Mapping[str, str]
    new_tags: Mapping[str, str]
    new_params: Mapping[str, str]
    start_time: int
    metrics: Sequence[Mapping[str, Any]]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    drop_tags: Sequence[str]
    status: str | None
    end_time: int | None

    @property
    def identity(self) -> tuple[str, ...]:
        return _identity(self.experiment_id, self.find)


def _identity(experiment_id: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    """What a run is found by."""
    return (experiment_id, *(part for key in sorted(tags) for part in (key, tags[key])))


def bad(message: str) -> MlflowException:
    return MlflowException(message, INVALID_PARAMETER_VALUE)


def write_runs(store: Any, entries: Sequence[Entry | MlflowException], permitted: Permitted) -> list[dict[str, Any]]:
    """An answer to each entry, once what they say is committed; one refused already is answered so.

    MlflowException: nothing is written.
    """
    return list(store._run_with_deadlock_retry(_write_once, store, entries, permitted))


def _write_once(store: Any, entries: Sequence[Entry | MlflowException], permitted: Permitted) -> list[dict[str, Any]]:
    with store.ManagedSessionMaker(read_only=False) as session:
        if store.db_type == "sqlite":  # what is read from here on holds until the end
            session.execute(text("BEGIN IMMEDIATE"))
        work = _Transaction(store, session, permitted)
        work.look([entry for entry in entries if isinstance(entry, Entry)])
        answers = [work.answer(entry) for entry in entries]
        work.save()
        return answers


@dataclass
class _Transaction:
    """Runs and experiments that are written to are locked, in the order of their ids, before anything is decided."""

    store: Any
    session: Any
    permitted: Permitted
    experiments: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    found: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # identity -> ids, oldest first
    known: dict[str, dict[str, str]] = field(default_factory=dict)  # run id -> its parameters
    may: Collection[str] = ()
    metrics: list[dict[str, Any]] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)

    # ------------------------------------------------------------------ what is there
    def look(self, entries: Sequence[Entry]) -> None:
        looking = [entry for entry in entries if entry.run_id is None]
        wanted = {entry.run_id for entry in entries if entry.run_id is not None}
        if looking:  # the experiment is locked, so that of two who look for the same run one makes it
            ids = {int(entry.experiment_id) for entry in looking}
            found = self._locked(SqlExperiment, SqlExperiment.experiment_id, ids)
            self.experiments = {str(experiment.experiment_id): experiment for experiment in found}
            self.found = self._find(looking, ids)
            wanted |= {run_ids[0] for run_ids in self.found.values() if run_ids}
        self.runs = {run.run_uuid: run for run in self._locked(SqlRun, SqlRun.run_uuid, wanted)}
        self.known = {run_id: {} for run_id in self.runs}
        for row in self._query(SqlParam).filter(SqlParam.run_uuid.in_(sorted(self.runs))):
            self.known[row.run_uuid][row.key] = row.value
        self.may = self.permitted({*self.experiments, *(str(run.experiment_id) for run in self.runs.values())})

    def _find(self, entries: Sequence[Entry], experiment_ids: Collection[int]) -> dict[tuple[str, ...], list[str]]:
        """Active runs that have the tags of an entry."""
        keys = {key for entry in entries for key in entry.find}
        values = {value for entry in entries for value in entry.find.values()}
        rows = (
            self._query(SqlRun)
            .join(SqlTag, SqlTag.run_uuid == SqlRun.run_uuid)
            .with_entities(SqlRun.start_time, SqlRun.run_uuid, SqlRun.experiment_id, SqlTag.key, SqlTag.value)
            .filter(SqlRun.experiment_id.in_(sorted(experiment_ids)), SqlRun.lifecycle_stage == LifecycleStage.ACTIVE)
            .filter(SqlTag.key.in_(sorted(keys)), SqlTag.value.in_(sorted(values)))
        )
        having: dict[tuple[int, str, int], dict[str, str]] = {}
        for start_time, run_id, experiment_id, key, value in rows:
            having.setdefault((start_time, run_id, experiment_id), {})[key] = value
        found: dict[tuple[str, ...], list[str]] = {entry.identity: [] for entry in entries}
        asked = {frozenset(entry.find) for entry in entries}
        for (_, run_id, experiment_id), tags in sorted(having.items()):
            for names in asked:
                if names <= tags.keys():
                    found.get(_identity(str(experiment_id), {name: tags[name] for name in names}), []).append(run_id)
        return found

    def _locked(self, model: Any, column: Any, ids: Collection[Any]) -> Iterator[Any]:
        yield from self._query(model).filter(column.in_(sorted(ids))).order_by(column).with_for_update(key_share=True)

    def _query(self, model: Any) -> Any:
        return self.store._get_query(self.session, model)

    # ------------------------------------------------------------------ what becomes of an entry
    def answer(self, entry: Entry | MlflowException) -> dict[str, Any]:
        """Decide; what is to be written waits for `save`."""
        try:
            if isinstance(entry, MlflowException):
                raise entry
            if entry.run_id is not None:
                ids = [entry.run_id]
            else:
                experiment = self._experiment(entry.experiment_id)
                ids = self.found[entry.identity] or [self._make(experiment, entry)]
            run = self._run(ids[0])
            self._change(run, entry)
            return {"run_id": run.run_uuid, "artifact_uri": run.artifact_uri, "others": ids[1:]}
        except MlflowException as error:
            return {"error_code": error.error_code, "message": error.message}

    def _run(self, run_id: str) -> Any:
        run = self.runs.get(run_id)
        if run is None or str(run.experiment_id) not in self.may:  # the same for both: nobody learns what exists
            raise MlflowException(f"Run with id={run_id} not found, or not yours to change", RESOURCE_DOES_NOT_EXIST)
        self.store._check_run_is_active(run)
        return run

    def _experiment(self, experiment_id: str) -> Any:
        experiment = self.experiments.get(experiment_id)
        if experiment is None or experiment_id not in self.may:
            missing = f"Experiment with id={experiment_id} not found, or not yours to change"
            raise MlflowException(missing, RESOURCE_DOES_NOT_EXIST)
        self.store._check_experiment_is_active(experiment)
        return experiment

    def _make(self, experiment: Any, entry: Entry) -> str:
        """The id of a run as SqlAlchemyStore.create_run makes it."""
        run_id = uuid.uuid4().hex
        tags = {MLFLOW_RUN_NAME: run_id[:8], **entry.new_tags, **entry.find}
        run = SqlRun(
            name=tags[MLFLOW_RUN_NAME],
            artifact_uri=append_to_uri_path(experiment.artifact_location, run_id, self.store.ARTIFACTS_FOLDER_NAME),
            run_uuid=run_id,
            experiment_id=experiment.experiment_id,
            source_type=SourceType.to_string(SourceType.UNKNOWN),
            source_name="",
            entry_point_name="",
            user_id=tags.get(MLFLOW_USER, "unknown"),
            status=RunStatus.to_string(RunStatus.RUNNING),
            start_time=entry.start_time,
            source_version="",
            lifecycle_stage=LifecycleStage.ACTIVE,
        )
        self.session.add(run)
        self.runs[run_id], self.known[run_id] = run, {}
        self.found[entry.identity] = [run_id]  # for another entry that looks for it
        self.tags |= {(run_id, key): value for key, value in tags.items()}
        return run_id

    def _change(self, run: Any, entry: Entry) -> None:
        run_id, known = run.run_uuid, self.known[run.run_uuid]
        params = {**({} if known else entry.new_params), **entry.params}
        for key, value in params.items():
            if known.get(key, value) != value:
                raise bad(f"Changing param values is not allowed: {key!r} of run {run_id} is {known[key]!r}")
        self.params += [{"run_uuid": run_id, "key": k, "value": v} for k, v in params.items() if k not in known]
        known |= params
        for row in entry.metrics:
            is_nan, value = self.store.sanitize_metric_value(row["value"])
            self.metrics.append({**row, "run_uuid": run_id, "value": value, "is_nan": is_nan})
        self.tags |= {(run_id, key): value for key, value in entry.tags.items()}
        if entry.drop_tags:
            dropped = self._query(SqlTag).filter(SqlTag.run_uuid == run_id, SqlTag.key.in_(entry.drop_tags))
            dropped.delete(synchronize_session=False)
        run.name = entry.tags.get(MLFLOW_RUN_NAME, run.name)
        run.status = entry.status or run.status
        run.end_time = run.end_time if entry.end_time is None else entry.end_time

    # ------------------------------------------------------------------ all rows
    def save(self) -> None:
        """In one order for all who write, so that no two wait for each other."""
        self.session.flush()  # new runs, before what refers to them
        latest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.metrics:
            place = row["run_uuid"], row["key"]
            if place not in latest or _age(row) > _age(latest[place]):
                latest[place] = row
        tags = [{"run_uuid": run_id, "key": key, "value": value} for (run_id, key), value in sorted(self.tags.items())]
        insert, newest, tag = INSERT[self.store.db_type], SqlLatestMetric.__table__.c, ("key", "run_uuid")
        self._insert(insert(SqlMetric.__table__).on_conflict_do_nothing(), self.metrics)
        self._insert(insert(SqlParam.__table__).on_conflict_do_nothing(), self.params)
        statement = insert(SqlLatestMetric.__table__)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=tag,
            set_={name: new[name] for name in ("value", "timestamp", "step", "is_nan")},
            where=tuple_(new.step, new.timestamp, new.value) > tuple_(newest.step, newest.timestamp, newest.value),
        )
        self._insert(statement, [latest[place] for place in sorted(latest)])
        statement = insert(SqlTag.__table__)
        changed = {"value": statement.excluded["value"]}
        self._insert(statement.on_conflict_do_update(index_elements=tag, set_=changed), tags)

    def _insert(self, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self.session.connection().execute(statement, rows)


def _age(row: Mapping[str, Any]) -> tuple[int, int, float]:
    return row["step"], row["timestamp"], row["value"]

"""A sweep in this process, without Ray: what Tune and its workers do, one after another; and ways to die in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from laresa import files
from laresa.measurement import Measurement
from sweeps.cli.main import build_parser
from sweeps.cli.studies import find_study
from sweeps.options import run_options
from sweeps.service.driver import runner, tune
from sweeps.service.driver.runner import SweepResult
from sweeps.service.provenance import bytes_of
from sweeps.service.storage.files import TrialFolder
from sweeps.service.tracking.async_writer import AsyncWriter, _Batch, _Concluded
from sweeps.service.tracking.client import client
from sweeps.service.tracking.deliver import Tracker
from sweeps.service.tracking.write import TrialRun
from sweeps.service.worker.members import TrialContext
from sweeps.service.worker.session import Session

STORE = ("create_experiment", "create_run", "set_tag", "delete_tag", "set_experiment_tag", "log_batch")
STORE += ("update_run_info", "delete_run")


class Direct(AsyncWriter):
    """Sends at once, from the thread that trains."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._tracker = Tracker(client(uri), None)

    def open(self, trial: TrialRun) -> None:
        self._open(self._tracker, _Batch(opened={trial.signature: trial}))

    def measured(self, signature: str, measurements: Sequence[Measurement]) -> None:
        self._measure(self._tracker, _Batch(measured={signature: list(measurements)}))

    def conclude(self, trial: TrialRun, folder: TrialFolder) -> None:
        self._conclude(self._tracker, _Batch(concluded={trial.signature: _Concluded(trial, folder)}))


def train_here(source, sweep, folder, options, tags, display, spending, scheduler=None) -> tune.Ended:
    """As `tune.run_trials`."""
    writer = Direct(sweep.uri)
    while (group := source.next()) is not None:
        code = {name: digest for trial in group.trials for name, digest in bytes_of(trial.config).items()}
        context = replace(TrialContext.of(sweep, folder, options, tags), files=code)
        session = Session(group.trials, context, writer, torch.device("cpu"), halving=group.halving)
        while session.running:
            session.step()
        for trial in group.trials:
            source.concluded(trial, folder.trial(trial.key).outcome())
    return tune.Ended(1, 0.0, False, ())


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "run_trials", train_here)
    monkeypatch.setattr(runner, "connect", lambda: None)
    monkeypatch.setattr(runner, "disconnect", lambda: None)
    monkeypatch.setattr(runner, "require_shared_storage", lambda folder: None)
    monkeypatch.setattr(runner, "on_cluster", lambda options, study, uri: replace(options, gpus_per_trial=0.0))
    monkeypatch.setattr(runner, "places", lambda options: 1)


def run_here(words: Sequence[str]) -> SweepResult:
    """`laresa run WORDS`, without its report."""
    args = build_parser(["run", *words]).parse_args(["run", *words])
    return runner.run(find_study(args.study).build(args), run_options(args))


class DiedError(BaseException):
    """The process is dead: nothing it does after this counts."""


@contextmanager
def dying_at(number: int, monkeypatch: pytest.MonkeyPatch, word: str = "") -> Iterator[list[str]]:
    """The number-th passage of a failpoint, and each after it, is a death; a write to MLflow is one, too.

    word: only passages with it count. The list has what was passed.
    """
    passed: list[str] = []

    def die(what: str) -> None:
        passed.append(what)
        if sum(word in one for one in passed) >= number:
            raise DiedError(what)

    def before(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            files.failpoint(f"MLflow {name}")
            return method(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files, "_die", die)
        for name in STORE:
            patch.setattr(SqlAlchemyStore, name, before(getattr(SqlAlchemyStore, name), name))
        yield passed

"""The load benchmark in small: what it counts as delivered is in the database, and a loss is seen."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.bench import load
from tests.bench.server import lacks_postgres, postgres

HOSTS, TRIALS, EPOCHS = 2, 3, 2
POINTS = HOSTS * TRIALS * (EPOCHS * (len(load.METRICS) + 1) + 1)


@pytest.fixture
def store() -> Iterator[str | None]:
    """A PostgreSQL; None, for the server's own sqlite, where there is none."""
    if lacks_postgres():
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # its server runs as another user
        with postgres(Path(name) / "postgres") as found:
            yield found


@pytest.mark.slow
def test_all_that_was_reported_is_there_and_a_loss_is_counted(store: str | None, tmp_path: Path):
    before, database = dict(os.environ), store or f"sqlite:///{tmp_path}/server/mlflow.db"
    with load.server(tmp_path / "server", store) as url:
        seconds = EPOCHS * load.EPOCH_SECONDS
        outcome = load.trials_at_once(url, database, tmp_path / "sweep", HOSTS, TRIALS, seconds)
    assert dict(os.environ) == before
    assert (outcome.trials, outcome.sent, outcome.lost, outcome.failed) == (HOSTS * TRIALS, POINTS, 0, 0)
    assert len(outcome.latencies) >= HOSTS * TRIALS
    assert 0 < outcome.percentile(50) <= outcome.percentile(99) < seconds
    engine = create_engine(database)
    with engine.begin() as connection:
        seeds = connection.execute(text("SELECT value, run_uuid FROM params WHERE key = 'seed'"))
        runs = {int(seed): run_id for seed, run_id in seeds}
        assert sorted(runs) == list(range(HOSTS * TRIALS))
        of_run = {"run_id": runs[4]}
        connection.execute(text("DELETE FROM metrics WHERE run_uuid = :run_id AND key = 'm3' AND step = 2"), of_run)
        wrong = "UPDATE metrics SET value = 7 WHERE run_uuid = :run_id AND key = 'm5' AND step = 1"
        connection.execute(text(wrong), of_run)
    engine.dispose()
    assert load.lost(database, runs, EPOCHS) == 2

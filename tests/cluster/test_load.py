"""The load benchmark in small: what it counts as delivered is in the database, and a loss is seen."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

import pytest

from tests.bench import load
from tests.bench.server import lacks_postgres, postgres

pytestmark = pytest.mark.slow
HOSTS, TRIALS, SECONDS = 2, 3, 6.0
POINTS = HOSTS * TRIALS * (2 * 13 + 1)


def test_sqlite_has_all_and_a_loss_is_counted(tmp_path: Path):
    database, before = tmp_path / "server" / "mlflow.db", dict(os.environ)
    with load.server(tmp_path / "server") as url:
        outcome = load.trials_at_once(url, f"sqlite:///{database}", tmp_path / "sweep", HOSTS, TRIALS, SECONDS)
    assert (outcome.trials, outcome.sent, outcome.lost, outcome.failed) == (HOSTS * TRIALS, POINTS, 0, 0)
    assert len(outcome.latencies) >= HOSTS * TRIALS
    assert 0 < outcome.percentile(50) <= outcome.percentile(99) < SECONDS
    assert dict(os.environ) == before
    with sqlite3.connect(database) as connection:
        runs = dict(connection.execute("SELECT CAST(value AS INT), run_uuid FROM params WHERE key = 'seed'"))
        assert sorted(runs) == list(range(HOSTS * TRIALS))
        connection.execute("DELETE FROM metrics WHERE run_uuid = ? AND key = 'm3' AND step = 2", [runs[4]])
        connection.execute("UPDATE metrics SET value = 7 WHERE run_uuid = ? AND key = 'm5' AND step = 1", [runs[1]])
    assert load.lost(f"sqlite:///{database}", runs, 2) == 2


@pytest.mark.skipif(lacks_postgres() is not None, reason=str(lacks_postgres()))
def test_postgresql_has_all(tmp_path: Path):
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # its server runs as another user
        with postgres(Path(name) / "postgres") as store, load.server(tmp_path / "server", store) as url:
            outcome = load.trials_at_once(url, store, tmp_path / "sweep", HOSTS, TRIALS, SECONDS)
    assert (outcome.sent, outcome.lost, outcome.failed) == (POINTS, 0, 0)

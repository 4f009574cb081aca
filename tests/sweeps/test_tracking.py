"""One run a trial, whole, whenever a worker or a request dies on the way there."""

from __future__ import annotations

from pathlib import Path

import pytest

from laresa.config import TrialConfig, parse_text
from laresa.errors import ConfigError
from laresa.measurement import Measurement
from sweeps import trials
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking import write as tracking
from sweeps.service.tracking.client import client
from sweeps.service.tracking.deliver import deliver
from sweeps.service.tracking.records import record_of
from sweeps.service.tracking.sweep import tracked_states
from sweeps.service.tracking.write import TrialRun

pytestmark = pytest.mark.slow
CONFIG = TrialConfig(subset="ce", epochs=7, seed=3)


class DiedError(Exception):
    pass


class DiesAt:
    """An MLflow client whose process ends at the first call of one method: before it, or after its effect."""

    def __init__(self, api, method: str, *, after: bool) -> None:
        self._api, self._method, self._after = api, method, after

    def __getattr__(self, name: str):
        real = getattr(self._api, name)

        def dying(*arguments, **options):
            if self._after:
                real(*arguments, **options)
            raise DiedError(name)

        return dying if name == self._method else real


def opened(url: str, sweep: str) -> TrialRun:
    return TrialRun(tracking.open_sweep(url, sweep, {}), PlannedTrial("ce", CONFIG), {})


@pytest.mark.parametrize("method", ["create_run", "log_batch"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_opened_halfway_is_completed(server: str, method: str, after: bool):
    sweep = f"halfway-{method}-{after}"
    trial, api = opened(server, sweep), client(server)
    with pytest.raises(DiedError):
        tracking.open_trial(DiesAt(api, method, after=after), trial)
    half = tracking.find_run(api, trial.sweep.experiment_id, trial.trial)
    described = method == "log_batch" and after
    assert len(trials(sweep)) == int(described)  # never a record with a default where a parameter is missing
    assert len(tracked_states(sweep, server)) == bool(half)  # so that the runner closes it where nobody goes on
    if half and not described:
        with pytest.raises(ConfigError, match="no parameters yet"):
            record_of(half)
    run_id = tracking.open_trial(api, trial).run_id
    assert half in (None, run_id)
    (record,) = trials(sweep)
    assert (record.run_id, record.config) == (run_id, CONFIG)


def test_a_request_sent_twice_leaves_one_run(server: str):
    trial, api = opened(server, "twice"), client(server)
    first = tracking.open_trial(api, trial).run_id
    tags = api.get_run(first).data.tags
    api.create_run(trial.sweep.experiment_id, tags=tags)
    assert tracking.open_trial(api, trial).run_id == first
    assert [record.run_id for record in trials("twice")] == [first]


def test_a_signature_that_reads_as_a_number_is_found(server: str):
    configs = (TrialConfig(subset="ce", seed=seed) for seed in range(10_000))
    trial = PlannedTrial(
        "ce", next(config for config in configs if parse_text(config.signature()) != config.signature())
    )
    run, api = TrialRun(tracking.open_sweep(server, "digits", {}), trial, {}), client(server)
    assert tracking.open_trial(api, run) == tracking.open_trial(api, run)
    assert len(trials("digits")) == 1


def test_an_outcome_delivered_twice_is_the_same(server: str, tmp_path: Path):
    trial, api = opened(server, "delivered"), client(server)
    folder = SweepFolder(tmp_path).trial(trial.trial.key)
    history = [Measurement(epoch, {"val/top1": epoch / 10}, 1.0, 1000 + epoch).to_dict() for epoch in (1, 2, 3)]
    outcome = {"state": "finished", "metrics": {"test/top1": 0.5}, "history": history, "provenance": {}, "error": None}
    folder.new_attempt().conclude(outcome)
    first = deliver(api, trial, folder)
    assert deliver(api, trial, folder) == first
    (record,) = trials("delivered", with_history=True)
    assert record.state == "finished"
    assert record.metrics["test/top1"] == 0.5
    assert [measurement.epoch for measurement in record.history] == [1, 2, 3]
    kept = [(metric.step, metric.value) for metric in api.get_metric_history(first, "val/top1")]
    assert kept == [(1, 0.1), (2, 0.2), (3, 0.3)]

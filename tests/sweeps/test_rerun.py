"""`laresa rerun`: the verdict on hand-made records, and on real runs of a tiny sweep."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from laresa.measurement import Measurement
from sweeps import trials
from sweeps.cli.rerun import Difference, differences, rerun
from sweeps.service.tracking.client import client
from sweeps.service.tracking.records import TrialRecord, record_of
from tests.sweeps.conftest import ablation, laresa

HISTORY = tuple(Measurement(epoch, {"train/loss": 2.0 / epoch, "val/top1": 0.5}, 0.1 * epoch) for epoch in (1, 2))
RECORD = TrialRecord(
    sweep="toy",
    signature="0" * 12,
    run_id="r",
    arm="ce",
    config=TrialConfig(subset="ce"),
    state="finished",
    metrics={"train/loss": 1.0, "val/top1": 0.5, "seconds/epoch": 0.2, "test/top1": 0.25, "seconds/train": 0.3},
    history=HISTORY,
)


def test_durations_are_no_difference():
    slower = [dataclasses.replace(measurement, seconds=9.0) for measurement in HISTORY]
    assert list(differences(RECORD, slower, {"test/top1": 0.25, "seconds/train": 18.0})) == []


def test_the_first_difference_is_named_by_epoch_and_metric():
    changed = [HISTORY[0], Measurement(2, {"train/loss": 1.0, "val/top1": 0.75}, 0.2)]
    found = list(differences(RECORD, changed, {"test/top1": 0.5}))
    assert found == [Difference(2, "val/top1", 0.5, 0.75), Difference(None, "test/top1", 0.25, 0.5)]
    assert str(found[0]) == "val/top1 in epoch 2: 0.5 then, 0.75 now"


def test_a_metric_or_an_epoch_that_is_missing_is_a_difference():
    without = [HISTORY[0], Measurement(2, {"train/loss": 1.0}, 0.2)]
    assert list(differences(RECORD, without, {"test/top1": 0.25})) == [Difference(2, "val/top1", 0.5, None)]
    assert Difference(2, "val/top1", 0.5, None).size == math.inf
    assert list(differences(RECORD, HISTORY[:1], {"test/top1": 0.25})) == [Difference(None, "epochs", 2.0, 1.0)]


def test_nan_then_and_now_is_the_same():
    record = dataclasses.replace(RECORD, metrics={"test/silhouette": math.nan})
    assert list(differences(record, HISTORY, {"test/silhouette": math.nan})) == []
    assert len(list(differences(record, HISTORY, {"test/silhouette": 0.0}))) == 1


def test_the_size_of_a_difference_is_relative_above_one():
    assert Difference(1, "train/loss", 200.0, 100.0).size == 0.5
    assert Difference(1, "val/top1", 0.5, 0.25).size == 0.25


def test_an_unfinished_trial_is_compared_over_its_epochs_only():
    assert list(differences(dataclasses.replace(RECORD, state="pruned"), HISTORY, {})) == []


@pytest.fixture(scope="module")
def sweep(server: str, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    laresa("run", *ablation("again", pictures, "ce+anchor"), cwd=tmp_path_factory.mktemp("again"))
    return "again"


@pytest.mark.slow
def test_a_rerun_is_equal_to_the_bit_and_states_both_versions(sweep: str, tmp_path: Path):
    (record,) = trials(sweep)
    assert record.provenance["threads"] == "1"
    done = laresa("rerun", record.run_id, cwd=tmp_path)
    assert done.stdout.startswith(f"{record.run_id}: equal to the bit over 3 epochs\n")
    assert record.provenance["git_commit"] in done.stdout
    assert record.provenance["version.torch"] in done.stdout


@pytest.mark.slow
def test_another_result_is_told_with_its_place(server: str, sweep: str, tmp_path: Path):
    (record,) = trials(sweep)
    api, history = client(server), record_of(record.run_id).history
    try:
        _upload(api, record, history, tmp_path, added=1e-6)
        assert rerun(record.run_id).verdict == "equal within the tolerance"
        _upload(api, record, history, tmp_path, added=1.0)
        done = laresa("rerun", record.run_id, "--json", check=False, cwd=tmp_path)
        assert done.returncode == 1
        (told,) = json.loads(done.stdout)
        assert told["verdict"] == "different"
        assert (told["first_beyond"]["epoch"], told["first_beyond"]["metric"]) == (2, "train/loss")
    finally:
        _upload(api, record, history, tmp_path, added=0.0)


def _upload(api, record: TrialRecord, history: Sequence[Measurement], folder: Path, *, added: float) -> None:
    """Put a history in the record's place whose second epoch has another loss."""
    rows = [measurement.to_dict() for measurement in history]
    rows[1]["metrics"]["train/loss"] += added
    (folder / "history.json").write_text(json.dumps(rows))
    api.log_artifact(record.run_id, str(folder / "history.json"))


@pytest.mark.slow
def test_what_is_no_trial_is_refused(server: str, sweep: str):
    with pytest.raises(ConfigError, match="no run 'nothing' at http"):
        rerun("nothing")
    api = client(server)
    experiment = api.get_experiment_by_name(sweep)
    (parent,) = api.search_runs([experiment.experiment_id], "tags.`laresa.kind` = 'sweep'")
    with pytest.raises(ConfigError, match="is not a trial's"):
        rerun(parent.info.run_id)

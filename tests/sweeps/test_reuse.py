"""The cache across sweeps: what one finished, another reuses; changed pictures are noticed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from laresa.config import TrialConfig
from laresa.measurement import Measurement
from sweeps import trials
from sweeps.service.planning import reuse as reusing
from sweeps.service.planning.reuse import Fingerprints
from sweeps.service.search.optuna_source import OptunaSource
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.outcome import describe_outcome
from sweeps.service.storage.state import write_json
from sweeps.service.study import PlannedTrial, Replicate, Search
from sweeps.service.tracking import write as tracking
from sweeps.service.tracking.client import client
from sweeps.service.tracking.deliver import deliver as to_tracker
from sweeps.service.tracking.records import record_of
from sweeps.service.tracking.sweep import Sweep
from sweeps.service.tracking.write import TrialRun
from tests.sweeps.conftest import ablation, draw_pictures, laresa

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("server")]


def test_what_another_sweep_finished_is_reused(server: str, tmp_path: Path):
    data = draw_pictures(tmp_path / "shared")  # which no sweep of another test has seen
    laresa("run", *ablation("first", data, "ce+anchor"), cwd=tmp_path)
    (original,) = trials("first", with_history=True)

    planned = json.loads(laresa("plan", *ablation("second", data, "ce,ce+anchor"), "--json", cwd=tmp_path).stdout)
    assert {row["arm"]: row["state"] for row in planned} == {"ce": "new", "ce+anchor": "cached"}
    done = laresa("run", *ablation("second", data, "ce,ce+anchor"), cwd=tmp_path)
    assert "second: 2 trials, 1 finished before" in done.stderr

    taken = next(record for record in trials("second", with_history=True) if record.arm == "ce+anchor")
    assert (taken.provenance["reused_from"], taken.run_id != original.run_id) == (original.run_id, True)
    assert (taken.metrics, taken.history) == (original.metrics, original.history)
    for name in ("git_commit", "code", "device", "threads", "host", "data_fingerprint", "tree_fingerprint"):
        assert taken.provenance[name] == original.provenance[name]
    assert np.array_equal(*(Sweep.open(r.sweep).latents(r)["z_ND"] for r in (taken, original)))
    names = [item.path for item in client(server).list_artifacts(taken.run_id, "checkpoint")]
    assert names == ["checkpoint/model.safetensors"]


def deliver(server: str, sweep: str, config: TrialConfig, folder: SweepFolder, **provenance: str) -> str:
    """A sweep of one trial that finished, without training; its run id."""
    trial = PlannedTrial("ce", config)
    stored = folder.trial(trial.key)
    attempt, row = stored.new_attempt(), Measurement(1, {"val/top1": 0.5}, 0.1).to_dict()
    write_json(stored.root / "config.json", config.to_dict())
    np.savez(stored.root / "latents.npz", z_ND=np.eye(2))
    tags = {f"laresa.{name}": value for name, value in provenance.items()}
    attempt.conclude(describe_outcome(trial, "finished", {"test/top1": 0.25}, [row], None, tags))
    return to_tracker(client(server), TrialRun(tracking.open_sweep(server, sweep, {}), trial, {}), stored)


def test_a_copy_of_a_copy_names_the_original_under_the_tags_old_name_too(server: str, pictures: Path, tmp_path: Path):
    config = TrialConfig(dataset=str(pictures), subset="ce", lr=0.125)
    known = reusing.Fingerprints()(config)
    deliver(server, "older", config, SweepFolder(tmp_path / "a"), data_fingerprint=known, adopted_from="origin")
    (older,) = trials("older")
    assert older.provenance["reused_from"] == "origin"
    assert record_of(older.run_id).history[0].metrics == {"val/top1": 0.5}
    folder, trial = SweepFolder(tmp_path / "b"), PlannedTrial("ce", config)
    assert reusing.reuse(client(server), "newer", folder, [trial]) == [trial]
    outcome = folder.trial(trial.key).outcome()
    assert outcome["provenance"]["laresa.reused_from"] == "origin"
    assert (outcome["metrics"], [row["epoch"] for row in outcome["history"]]) == ({"test/top1": 0.25}, [1])
    assert folder.trial(trial.key).file("latents.npz").exists()


def test_many_at_once_are_asked_for_by_what_they_share_and_other_pictures_count_for_nothing(
    server: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    configs = [TrialConfig(dataset=str(pictures), subset=subset, lr=0.25) for subset in ("ce", "ce+reg", "ce+anchor")]
    known = reusing.Fingerprints()(configs[0])
    for config, fingerprint in zip(configs, (known, known, "0123"), strict=True):
        deliver(server, "some", config, SweepFolder(tmp_path / "some"), data_fingerprint=fingerprint)
    more = [PlannedTrial("arm", config) for config in (*configs, configs[0].replace(lr=0.5))]
    single = reusing.finished_elsewhere(client(server), "other", more)
    monkeypatch.setattr(reusing, "SINGLE_LOOKUPS", 0)
    shared = reusing.finished_elsewhere(client(server), "other", more)
    assert set(single.same) == set(shared.same) == {config.signature() for config in configs[:2]}
    assert reusing.finished_elsewhere(client(server), "some", more).same == {}  # its own runs are no other sweep's


def test_a_quote_in_a_value_stays_inside_it():
    assert reusing._params({"dataset": "it's", "seed": 1}) == ["params.`dataset` = 'it''s'", "params.`seed` = '1'"]
    many = {str(seed): TrialConfig(seed=seed) for seed in range(20)}
    (conditions,) = reusing._conditions(many)
    assert "params.`epochs` = '1000'" in conditions
    assert not any("seed" in condition for condition in conditions)


def test_changed_pictures_are_not_mixed_with_what_was_measured_before(server: str, pictures: Path, tmp_path: Path):
    before = TrialConfig(dataset=str(pictures), subset="ce")
    deliver(server, "before", before, SweepFolder(tmp_path / "before"), data_fingerprint="0123")
    mixed = laresa("run", *ablation("before", pictures, "ce+anchor"), check=False, cwd=tmp_path)
    assert mixed.returncode == 2
    assert f"data set '{pictures}' has changed" in mixed.stderr
    assert "--sweep" in mixed.stderr
    assert [record.arm for record in trials("before")] == ["ce"]


def test_a_search_is_told_what_was_reused_and_trains_the_rest(tmp_path: Path):
    folder, seen = SweepFolder(tmp_path), []

    def reuse(trial: PlannedTrial) -> PlannedTrial:
        seen.append(trial.signature)
        if len(seen) != 2:
            metrics = {"best/val/top1": 0.5}
            stored = folder.trial(trial.key).new_attempt()
            stored.conclude(describe_outcome(trial, "finished", metrics, [], None, {}))
        return trial

    space = {"lr": FloatDistribution(1e-4, 1e-2, log=True)}
    search = Search("search", TrialConfig(subset="ce"), space, trials=3, replicate=Replicate(0, 0))
    source = OptunaSource(search, folder, reuse)
    assert source.next().trials[0].signature == seen[1]
    assert source.next() is None
    assert (source.spent.told, len(set(seen)), source.finished) == (2, 3, True)


def test_a_data_sets_own_fields_make_other_pictures(monkeypatch: pytest.MonkeyPatch):
    """CUB cut otherwise has another fingerprint, though it is the same data set at the same size."""
    loaded = []

    def load(config: TrialConfig) -> SimpleNamespace:
        loaded.append(config["cub200.resize"])
        return SimpleNamespace(fingerprint=f"at {config['cub200.resize']:g}")

    monkeypatch.setattr("laresa.data.load", load)
    known = Fingerprints()
    config = TrialConfig(dataset="cub200", **{"cub200.resize": 1.0})
    assert [known(config), known(config.replace(**{"cub200.resize": 0.0})), known(config)] == ["at 1", "at 0", "at 1"]
    assert loaded == [1.0, 0.0]

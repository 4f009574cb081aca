"""A sweep in a bucket: what a shared folder guarantees, for hosts that share none. Each `sweep_at` is another host."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

from laresa.config import TrialConfig
from laresa.errors import ConfigError, StorageError
from sweeps.service.driver.nodes import Host, probe_storage, require_shared
from sweeps.service.planning.plan import check_plan, plan, write_plan
from sweeps.service.search.optuna_source import OptunaSource
from sweeps.service.storage import lease
from sweeps.service.storage.bucket import Bucket
from sweeps.service.storage.files import Attempt, TrialFolder
from sweeps.service.storage.open import sweep_at, sweep_folder
from sweeps.service.storage.outcome import describe_outcome
from sweeps.service.storage.shared_folder import FencedError, SweepBusyError
from sweeps.service.storage.state import write_json
from sweeps.service.study import Cell, Group, Replicate, Search, Study
from sweeps.service.tracking.deliver import artifacts
from sweeps.service.worker.checks import BlindWorkerError, check_here

STUDY = Study("toy", (Cell("ce", TrialConfig(subset="ce")),), (Replicate(0, 0), Replicate(1, 0)))


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of a sweep that is not there yet."""
    storage = f"file://{tmp_path}" if request.param == "file" else request.getfixturevalue("s3")
    return f"{storage}/{uuid.uuid4().hex}/toy"


def trial_at(place: str) -> TrialFolder:
    return sweep_at(place).trial("abc")


def train(attempt: Attempt, epoch: int) -> None:
    path = attempt.checkpoint(epoch)
    path.write_text(f"epoch {epoch}")
    attempt.keep(path)


# ---------------------------------------------------------------------- trials


def test_another_host_goes_on_from_the_newest_checkpoint_and_fences_the_first(place: str):
    here, there = trial_at(place), trial_at(place)
    first = here.new_attempt()
    for epoch in (1, 2, 3):
        train(first, epoch)
    names = [path.name for path in there.checkpoints()]
    assert names == ["checkpoint-000003.safetensors", "checkpoint-000002.safetensors"]
    assert there.file(there.checkpoints()[0]).read_text() == "epoch 3"
    second = there.new_attempt()
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(FencedError, match=r"attempt 1 of \w+://.*/toy/trials/abc gives way to attempt 2"):
        first.check()
    with pytest.raises(FencedError):
        first.conclude({"state": "finished"})
    assert there.outcome() is None
    second.conclude({"state": "finished"})
    assert here.outcome() == trial_at(place).outcome() == {"state": "finished", "attempts": 2, "files": {}}
    assert here.checkpoints() == there.checkpoints() == []
    assert trial_at(place).new_attempt().number == 3


def test_of_two_who_take_a_number_at_once_one_stays(place: str):
    hosts = [trial_at(place), trial_at(place)]
    taken = [Attempt(host, host.files.claim(host.root / "attempt-0001")) for host in hosts]
    loser, winner = sorted(taken, key=lambda attempt: attempt.folder.name)
    winner.check()
    with pytest.raises(FencedError):
        loser.check()


def test_the_outcome_comes_after_the_files_it_speaks_of(place: str, monkeypatch: pytest.MonkeyPatch):
    trial, put, names = trial_at(place), Bucket.put, []
    attempt = trial.new_attempt()

    def note(bucket: Bucket, source: Path, name: str) -> None:
        if name.endswith("latents.npz") and not names:
            names.append("refused")
            raise StorageError("away")
        names.append(Path(name).name)
        put(bucket, source, name)

    monkeypatch.setattr(Bucket, "put", note)
    (trial.root / "latents.npz").write_text("many")
    with pytest.raises(StorageError, match="away"):
        attempt.conclude({"state": "finished"})
    assert trial_at(place).outcome() is None
    write_json(trial.root / "config.json", {})
    attempt.conclude({"state": "finished"})
    assert set(names[1:-1]) == {"config.json", "latents.npz"}
    assert names[-1] == "outcome.json"


def test_another_host_delivers_and_drops_what_the_tracker_has(place: str):
    trial, driver = trial_at(place), trial_at(place)
    attempt = trial.new_attempt()
    (trial.root / "latents.npz").write_text("many")
    attempt.conclude({"state": "finished"})
    ((path, target),) = artifacts(driver)
    assert (path.read_text(), target) == ("many", None)
    assert not driver.delivered()
    driver.note_delivered("run", [path])
    assert trial_at(place).delivered()
    assert artifacts(trial_at(place)) == []


# ---------------------------------------------------------------------- the driver


def test_a_rebuilt_head_finds_plan_and_trials(place: str):
    concluded, begun = STUDY.trials()
    driver = sweep_at(place)
    with driver.lock():
        write_plan(STUDY, driver)
        train(driver.trial(begun.key).new_attempt(), 1)
        driver.trial(concluded.key).new_attempt().conclude({"state": "finished"})
    rebuilt = sweep_at(place)
    check_plan(STUDY, rebuilt)
    with pytest.raises(ConfigError, match=r"lr=.*this command has 0\.5"):
        check_plan(Study("toy", (Cell("ce", TrialConfig(subset="ce", lr=0.5)),), (Replicate(0, 0),)), rebuilt)
    assert [row.state for row in plan(STUDY, rebuilt, {})] == ["deliver", "resume"]
    assert rebuilt.outcomes() == [{"state": "finished", "attempts": 1, "files": {}}]


def test_a_rebuilt_head_goes_on_with_the_search_and_its_budget(place: str):
    search = Search("search", TrialConfig(), {"lr": FloatDistribution(1e-4, 1e-2)}, 3, Replicate(0, 0))
    before = OptunaSource(search, sweep_at(place))
    told, unheard, open_ = (before.next().trials[0] for _ in range(3))
    worker = sweep_at(place)
    for trial in (told, unheard):
        outcome = describe_outcome(trial, "finished", {"best/val/top1": 0.5}, [], None, {})
        worker.trial(trial.key).new_attempt().conclude(outcome)
    before.concluded(told, worker.trial(told.key).outcome())
    after = OptunaSource(search, sweep_at(place))
    assert after.spent.told == 2  # of one the driver died before it heard
    assert after.next() == Group((open_,))
    assert (after.next(), after.finished) == (None, True)


def test_a_second_driver_is_told(place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    driver = sweep_at(place)
    assert driver.driver() == "unknown"
    with driver.lock():
        write_plan(STUDY, driver)
        assert sweep_at(place).busy()
        with pytest.raises(SweepBusyError, match="sweep 'toy' is being run by process"), sweep_at(place).lock():
            pass
        driver.write("estimate.json", {})  # the first one still may
    assert sweep_at(place).driver() == "none"


def test_a_lease_that_is_not_renewed_runs_out(place: str, monkeypatch: pytest.MonkeyPatch):
    bucket = Bucket(place)
    bucket.write("drivers/lost", json.dumps({"holder": "process 1 on lost", "pid": 1, "machine": "another"}))
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.2)
    driver = sweep_at(place)
    with driver.lock():
        (mine,) = bucket.names("drivers")
        assert mine != "drivers/lost"
        bucket.delete(mine)  # as somebody does who takes this one for dead
        with pytest.raises(SweepBusyError, match="no sign for"):
            driver.write("plan.json", {})
    assert sweep_at(place).driver() == "unknown"


def test_a_killed_driver_of_this_machine_is_not_waited_for(place: str):
    hold = "import sys\nfrom sweeps.service.storage.open import sweep_at\n"
    hold += f"with sweep_at({place!r}).lock():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert sweep_at(place).busy()
    finally:
        holder.kill()
        holder.communicate()
    assert not sweep_at(place).busy()
    assert Bucket(place).names("drivers")  # it could not take it along
    with sweep_at(place).lock():
        assert len(Bucket(place).names("drivers")) == 1


# ---------------------------------------------------------------------- places


def test_a_folder_stays_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for storage in ("~/kept", tmp_path / "home" / "kept", "home/kept"):
        folder = sweep_folder("toy", storage)
        assert folder.root == tmp_path / "home" / "kept" / "toy"
        assert sweep_at(folder.place) == folder


def test_names_need_no_care(tmp_path: Path):
    folder = sweep_folder("50% of #1, what?", f"file://{tmp_path}/some%20where/")
    folder.trial("abc").new_attempt().conclude({"state": "finished"})
    assert (tmp_path / "some where" / "50% of #1, what?" / "trials" / "abc" / "outcome.json").exists()
    assert sweep_at(folder.place).trial("abc").outcome() is not None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s4://bucket/x", "unknown scheme; did you mean 's3'"),
        ("swift://bucket/x", "unknown scheme; known: abfs, abfss, file, gs, s3"),
        ("s3:/bucket/x", "expected s3://bucket/prefix"),
        ("s3:///x", "expected s3://bucket/prefix"),
        ("s3://me:verysecret@bucket/x", "Credentials come from the environment"),
        ("s3://me:very/secret@bucket/x", "Credentials come from the environment"),
        ("s3://bucket/x?secret_key=verysecret", "Credentials come from the environment"),
        ("s3://bucket/x?endpoint_override=me:verysecret@minio", "Credentials come from the environment"),
        ("gs://bucket/x?access_token=verysecret", "expected gs://bucket/prefix"),
        ("abfs://box:verysecret@me.dfs.core.windows.net/x", "expected abfs://container@account"),
    ],
)
def test_what_is_no_bucket_is_refused_without_its_secret(uri: str, words: str):
    with pytest.raises(ConfigError) as refused:
        sweep_folder("toy", uri)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_bucket_that_cant_be_used_is_named(s3: str, tmp_path: Path):
    for uri, reason in (
        ("s3://laresa-nowhere/x", "NO_SUCH_BUCKET"),
        ("s3://laresa-tests/x?endpoint_override=127.0.0.1:9&scheme=http", "NETWORK_CONNECTION"),
        (f"file://{__file__}/x", "Not a directory"),
    ):
        folder = sweep_folder("toy", uri)
        with pytest.raises(StorageError, match=reason) as refused, folder.lock():
            pass
        assert folder.place in str(refused.value)
        assert "expected a bucket that exists" in str(refused.value)


def test_a_host_says_why_it_does_not_see_the_bucket(s3: str, tmp_path: Path):
    place = f"{s3}/{uuid.uuid4().hex}/toy"
    Bucket(place).write("marker", "")
    assert probe_storage(place, "marker")[1] is None
    closed = "s3://laresa-tests/x?endpoint_override=127.0.0.1:9&scheme=http"
    name, why, _ = probe_storage(closed, "marker")
    with pytest.raises(StorageError, match=rf"not shared: {name} can't see it.*\({name}: .*NETWORK_CONNECTION"):
        require_shared(closed, [Host(name, False, 0.0, 1.0, why)])
    with pytest.raises(BlindWorkerError, match="NETWORK_CONNECTION"):
        check_here(sweep_at(closed))
    with pytest.raises(BlindWorkerError, match="does not see"):
        check_here(sweep_at(place))

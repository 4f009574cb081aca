"""Several sweeps on one cluster, budgets, and being stopped from MLflow."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from laresa.errors import ConfigError
from sweeps import trials
from sweeps.service.driver.shares import DEAD_SECONDS, Demand, Shares, allotted
from sweeps.service.driver.spending import BudgetReachedError, Spending
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import RunOptions
from sweeps.service.tracking.sweep import Sweep
from sweeps.service.worker import board
from sweeps.service.worker.trial import TuneTrial
from tests.sweeps.conftest import ablation, laresa
from tests.sweeps.test_kills import assert_settled, kill_driver, start


def long(sweep: str, data: Path, subsets: str, epochs: int) -> list[str]:
    """Of trials that go on for a while."""
    words = ablation(sweep, data, subsets, epochs=epochs)
    return ["run", *(word.replace("patience=100", "patience=1000") for word in words)]


def demand(wants: int = 99, places: int = 8, priority: float = 1.0, gpu: bool = False) -> Demand:
    return Demand(priority, wants, places, gpu)


def test_places_follow_priorities_and_what_one_does_not_want_others_get():
    assert allotted({"a": demand(), "b": demand()}) == {"a": 4, "b": 4}
    assert allotted({"a": demand(priority=3), "b": demand()}) == {"a": 6, "b": 2}
    assert allotted({"a": demand(wants=1), "b": demand()}) == {"a": 1, "b": 7}
    assert allotted({"a": demand(places=3), "b": demand(places=3)}) == {"a": 2, "b": 1}
    assert allotted({"a": demand(places=16), "b": demand(places=4)}) == {"a": 8, "b": 2}  # a quarter of a GPU each
    assert allotted({name: demand(places=2) for name in "abc"}) == {"a": 1, "b": 1, "c": 1}  # one waits its turn
    assert allotted({"a": demand(priority=1000), "b": demand()})["b"] == 1


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.builds(Demand, st.floats(0.1, 10), st.integers(1, 20), st.integers(1, 12), st.just(False)),
        min_size=2,
        max_size=5,
    )
)
def test_nobody_gets_more_than_it_wants_and_no_place_is_idle_that_somebody_wants(demands: dict[str, Demand]):
    given_to = allotted(demands)
    assert set(given_to) == set(demands)
    assert all(1 <= count <= demands[name].wants for name, count in given_to.items())
    used = sum(count / demands[name].places for name, count in given_to.items())
    for name, count in given_to.items():
        if count < demands[name].wants:
            assert used + 1 / demands[name].places > 1 - 1e-6


def test_a_driver_that_tells_nothing_new_counts_no_more_and_other_devices_are_no_rivals():
    shares = Shares("mine", 1.0, gpu=False)
    told = {"share/b": {"count": 1, "demand": asdict(demand())}}
    shares.reckon(told, demand(), now=0.0)
    assert shares.allowed == 4
    shares.reckon(told, demand(), now=DEAD_SECONDS + 1)
    assert shares.allowed is None
    shares.reckon({"share/b": {"count": 2, "demand": asdict(demand())}}, demand(), now=DEAD_SECONDS + 2)
    assert shares.allowed == 4
    shares.reckon({"share/b": {"count": 3, "demand": asdict(demand(gpu=True))}}, demand(), now=DEAD_SECONDS + 3)
    assert shares.allowed is None


def test_who_holds_too_much_gives_back_its_youngest_and_lets_none_wait():
    shares = Shares("mine", 1.0, gpu=False)
    for group in "abc":
        shares.started(group)
    assert not any(map(shares.gives_way, "abc"))
    assert shares.too_many(["d", "e"]) == []
    shares.allowed = 2
    assert [shares.gives_way(group) for group in "abc"] == [False, False, True]
    assert shares.too_many(["d", "e"]) == ["d", "e"]
    shares.ended("c")
    assert not any(map(shares.gives_way, "abc"))
    assert shares.too_many(["d", "e", "f"]) == ["f"]  # two wait for the hosts that an autoscaler may bring
    shares.starved = True
    assert shares.too_many(["d", "e", "f"]) == ["d", "e", "f"]


def test_a_sweep_that_waits_for_its_share_is_seen():
    shares = Shares("mine", 1.0, gpu=False)
    for running, starved in ((3, True), (4, False)):
        told = asdict(Demand(1.0, 99, 8, False, running))
        shares.reckon({"share/b": {"count": running, "demand": told}}, demand(), now=0.0)
        assert (shares.allowed, shares.starved) == (4, starved)


def test_a_sweep_asks_for_no_more_than_it_may_run_and_is_reckoned_by_what_fills_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
):
    """One trial at a time by --concurrency on eight places: the other sweep has the seven."""
    told = {}
    monkeypatch.setattr(board, "put", told.__setitem__)
    monkeypatch.setattr(board, "get_all", lambda prefix: told)
    shares = [Shares(name, 1.0, gpu=False, most=most) for name, most in (("one", 1), ("many", None))]
    for share in (*shares, *shares):
        share.tell(3, True, 8)
    assert [share.allowed for share in shares] == [1, 7]
    shares[1].tell(3, False, 8)
    assert shares[1].allowed == 3


def test_where_rays_head_is_away_nothing_is_told_and_the_share_stays(monkeypatch: pytest.MonkeyPatch):
    """Ray's own errors are no RuntimeErrors."""
    from ray.exceptions import RpcError
    from ray.experimental import internal_kv

    def away(*arguments: object, **options: object) -> None:
        raise RpcError("failed to connect to all addresses")

    for name in ("_internal_kv_put", "_internal_kv_get", "_internal_kv_list", "_internal_kv_del"):
        monkeypatch.setattr(internal_kv, name, away)
    monkeypatch.setattr(internal_kv, "_internal_kv_initialized", lambda: True)
    shares = Shares("mine", 1.0, gpu=False)
    shares.allowed = 2
    shares.tell(3, True, 8)
    shares.leave()
    assert shares.allowed == 2
    assert TuneTrial.__new__(TuneTrial)._asked_to_stop() == ()
    for ask in (board.get, board.get_all, board.take_away):
        with pytest.raises(board.AwayError, match="failed to connect"):
            ask("name")


def test_gpu_hours_are_counted_over_all_runs(tmp_path: Path):
    folder, options = SweepFolder(tmp_path), RunOptions(max_gpu_hours=1.0)
    spending = Spending(folder, options)
    spending.check(0.5)
    spending._at -= 2 * 3600
    spending.hold(0.25)
    assert spending.hours == pytest.approx(0.5, abs=0.01)
    assert not spending.reached
    spending.write()
    again = Spending(folder, options)
    again._at -= 3600
    again.hold(0.5)
    assert again.reached.startswith("--max-gpu-hours 1 are spent (1.00): a greater number continues")
    with pytest.raises(BudgetReachedError):
        again.check(0.5)
    assert Spending(folder, RunOptions()).reached == ""
    with pytest.raises(ConfigError, match="--max-gpu-hours 1: trials run on the CPU here"):
        again.check(0.0)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_sweep_ends_at_its_number_of_trials_and_a_greater_one_continues(
    server: str, pictures: Path, tmp_path: Path, laresa_home: Path
):
    arguments = ["run", *ablation("capped", pictures, "ce,ce+anchor", "31,32", epochs=2), "--priority", "2"]
    arguments += ["--latents-every", "2", "--keep-weights", "all"]
    done = laresa(*arguments, "--max-trials", "3", check=False, cwd=tmp_path)
    assert done.returncode == 3
    assert "stopped: 3 finished, 1 not started; --max-trials 3: the sweep has as many; a greater" in done.stdout
    assert len(trials("capped")) == 3
    again = laresa(*arguments, "--max-trials", "3", check=False, cwd=tmp_path)
    assert again.returncode == 3
    assert len(trials("capped")) == 3
    laresa(*arguments, "--max-trials", "4", cwd=tmp_path)
    assert_settled(server, "capped", {"finished"})
    assert len(trials("capped")) == 4
    sweep = Sweep.open("capped")
    for record in trials("capped"):
        left = {file.path for file in sweep.api.list_artifacts(record.run_id, "checkpoint")}
        assert left == {"checkpoint/model.safetensors", "checkpoint/last.safetensors"}
        kept = sweep.latents_by_epoch(record)
        assert list(kept) == [1, 2]
        assert kept[1]["z_ND"].shape == (30, 384)
        assert list(kept[2]["coarse_names"]) == ["pet", "vehicle", "fruit"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tags_in_mlflow_stop_a_trial_and_a_sweep(server: str, pictures: Path, tmp_path: Path, laresa_home: Path):
    """First one of two trials, then the sweep; the command typed again goes on with both."""
    arguments = long("tagged", pictures, "ce,ce+anchor", 250)
    api, driver = MlflowClient(server), start(arguments, tmp_path)
    try:
        runs = {}
        deadline = time.monotonic() + 100
        while len(runs) < 2 or not all(run.data.metrics.get("val/top1") is not None for run in runs.values()):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.3)
            if (experiment := api.get_experiment_by_name("tagged")) is not None:
                found = api.search_runs([experiment.experiment_id])
                runs = {run.data.tags["laresa.arm"]: run for run in found if run.data.tags["laresa.kind"] == "trial"}
                parent = next((run for run in found if run.data.tags["laresa.kind"] == "sweep"), None)
        api.set_tag(runs["ce"].info.run_id, "laresa.stop", "true")
        while "stopped      ce, seed 0" not in (tmp_path / "log").read_text():
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        while api.get_run(runs["ce"].info.run_id).info.status == "RUNNING":  # not at the end of the sweep
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert api.get_run(runs["ce"].info.run_id).data.tags["laresa.state"] == "interrupted"
        api.set_tag(parent.info.run_id, "laresa.stop", "true")
        assert driver.wait(timeout=60) == 130
    finally:
        if driver.poll() is None:
            kill_driver(driver)
    said = (tmp_path / "log").read_text()
    assert "stopping: laresa.stop is set on the sweep in MLflow; 1 running trials end their epoch and keep it" in said
    assert "stopped: 2 interrupted; the same command continues" in said
    assert "Traceback" not in said
    folder = SweepFolder(laresa_home / "storage" / "tagged")
    kept = [int(folder.trial(record.key).checkpoints()[0].stem.partition("-")[2]) for record in trials("tagged")]
    assert all(0 < epoch < 250 for epoch in kept)
    laresa(*arguments, cwd=tmp_path)
    assert [record.state for record in trials("tagged")] == ["finished"] * 2
    for record in trials("tagged"):
        assert folder.trial(record.key).outcome()["attempts"] == 2


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_two_sweeps_share_a_cluster(
    server: str, pictures: Path, tmp_path: Path, laresa_home: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first holds both places; when the second comes it gives one back, and its trial comes again."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    drivers = []
    try:
        storage = [SweepFolder(laresa_home / "storage" / name) for name in ("first", "second")]

        def training(folder: SweepFolder) -> int:
            """How many of its trials have a checkpoint or an outcome."""
            return len({path.parts[-3] for path in folder.root.glob("trials/*/attempt-*/checkpoint-*")})

        def wait(condition, seconds: float = 120) -> None:
            deadline = time.monotonic() + seconds
            while not condition():
                said = [path.read_text() for path in tmp_path.glob("*/log")]
                assert time.monotonic() < deadline, said
                assert all(driver.poll() is None for driver in drivers), said
                time.sleep(0.2)

        plans = (("first", "ce,ce+anchor", 2), ("second", "ce+reg", 1))
        for (name, subsets, count), folder in zip(plans, storage, strict=True):
            (tmp_path / name).mkdir()
            drivers.append(start(long(name, pictures, subsets, 350), tmp_path / name))
            wait(lambda folder=folder, count=count: training(folder) == count)
        assert len(list(storage[0].root.glob("trials/*/outcome.json"))) == 0  # nobody had to end for the second
        for driver in drivers:
            assert driver.wait(timeout=250) == 0, (tmp_path / "first" / "log").read_text()
    finally:
        for driver in drivers:
            if driver.poll() is None:
                kill_driver(driver)
        ray.shutdown()
        cluster.shutdown()
    for (name, _, count), folder in zip(plans, storage, strict=True):
        assert [record.state for record in trials(name)] == ["finished"] * count
        attempts = [folder.trial(record.key).outcome()["attempts"] for record in trials(name)]
        assert sorted(attempts) == [1, 2][:count]  # the one that gave way went on from its checkpoint

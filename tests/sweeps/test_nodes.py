"""Several nodes, as Ray pretends them on one machine: one dies, another joins; what every host must see."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from laresa.config import TrialConfig
from laresa.errors import StorageError
from sweeps import trials
from sweeps.service.driver import runner
from sweeps.service.driver import tune as tuning
from sweeps.service.driver.interrupt import GracefulInterrupt
from sweeps.service.driver.nodes import Host, probe_nodes, require_shared
from sweeps.service.driver.progress import ProgressDisplay
from sweeps.service.driver.spending import Spending
from sweeps.service.driver.tune import explain_pending
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Cell, Replicate, RunOptions, Study
from sweeps.service.worker.checks import BlindWorkerError, check_here
from tests.sweeps.conftest import ablation
from tests.sweeps.test_kills import assert_settled, kill_driver, start


def test_a_host_that_does_not_see_the_storage_is_named(tmp_path: Path):
    sees, blind = Host("head", True, 0.1, 1.0), Host("worker-7", False, 0.0, 1.0)
    require_shared(str(tmp_path), [sees])
    with pytest.raises(StorageError, match=r"is not shared: worker-7 can't see it\. Give --storage a folder"):
        require_shared(str(tmp_path), [sees, blind])


def test_clocks_that_differ_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "laresa.nodes"):
        require_shared(str(tmp_path), [Host("near", True, -6.0, 4.0)])  # its answer took up to four seconds to arrive
        assert not caplog.messages
        require_shared(str(tmp_path), [Host("ahead", True, 7.0, 1.0), Host("behind", True, -90.0, 4.0)])
    assert ["the clock of ahead is +7 s off" in caplog.messages[0], "behind is -90 s" in caplog.messages[1]] == [
        True
    ] * 2


def test_a_worker_without_the_sweeps_folder_does_not_begin(tmp_path: Path):
    with pytest.raises(BlindWorkerError, match="is the shared folder mounted there"):
        check_here(SweepFolder(tmp_path))
    (tmp_path / "plan.json").write_text("{}")
    check_here(SweepFolder(tmp_path))


@pytest.mark.parametrize(
    ("asks", "exists", "words"),
    [
        (
            {"CPU": 1, "GPU": 0.25},
            {"CPU": 8},
            "One asks for 1 CPU, 0.25 GPU; the cluster has 8 CPU, 0 GPU: no host here",
        ),
        ({"CPU": 16, "GPU": 0}, {"CPU": 8}, "it can't fit: ask for less"),
        ({"CPU": 1, "GPU": 1}, {"CPU": 8, "GPU": 2}, "others may hold it"),
    ],
)
def test_why_nothing_runs(asks, exists, words: str):
    assert words in explain_pending(asks, exists)


def test_nothing_is_trained_on_storage_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The runner asks the hosts before anything else, and stops there."""
    asked = []

    def blind(folder: SweepFolder) -> None:
        asked.append(folder.root)
        require_shared(folder.place, [Host("worker-7", False, 0.0, 1.0)])

    monkeypatch.setattr(runner, "connect", lambda: None)
    monkeypatch.setattr(runner, "require_shared_storage", blind)
    monkeypatch.setattr(runner, "prepare", lambda study, **_: None)
    study = Study("unshared", (Cell("ce", TrialConfig(subset="ce")),), (Replicate(0, 0),))
    with pytest.raises(StorageError, match="worker-7 can't see it"):
        runner.run(study, RunOptions(f"sqlite:///{tmp_path}/m.db", storage=tmp_path))
    assert asked == [tmp_path / "unshared"]
    assert not (tmp_path / "unshared" / "trials").exists()


def test_the_reason_is_told_once_after_thirty_seconds_without_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = io.StringIO()
    display = ProgressDisplay("toy", 0, 2, Console(file=text, width=200))
    monkeypatch.setattr(tuning.ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(tuning.ray, "nodes", lambda: [{"Alive": False}, {"Alive": True}])
    spending = Spending(SweepFolder(tmp_path), RunOptions())
    reporter = tuning.Reporter(display, GracefulInterrupt(), {"CPU": 1, "GPU": 1}, spending, Mock(), lambda: 1)
    reporter.on_step_begin(1, [])
    assert "no trial has run" not in text.getvalue()
    for step in (2, 3):
        reporter._idle_since -= 31
        reporter.on_step_begin(step, [])
    assert (
        text.getvalue().count("no trial has run for 30 s. One asks for 1 CPU, 1 GPU; the cluster has 8 CPU, 0 GPU") == 1
    )
    planned = {"signature": "s", "arm": "ce", "config": {"epochs": 2, "seed": 0, "fold": 0}}
    display.started("a", [planned])
    reporter.on_step_begin(4, [])
    reporter._idle_since -= 31
    reporter.on_step_begin(5, [])
    assert text.getvalue().count("no trial has run") == 1  # one runs now
    display.left("a")
    monkeypatch.setattr(tuning.ray, "nodes", lambda: [{"Alive": False}])
    reporter._idle_since -= 31
    with pytest.raises(KeyboardInterrupt):
        reporter.on_step_begin(6, [])
    assert "the Ray that trains here has died" in text.getvalue()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that trains nothing and two nodes."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            made.add_node(num_cpus=2)
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_dies_and_another_joins(
    cluster: Cluster, server: str, pictures: Path, tmp_path: Path, laresa_home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    study = ablation("nodes", pictures, "ce,ce+anchor", "0,1", epochs=25)
    storage = SweepFolder(laresa_home / "storage" / "nodes")
    driver = start(["run", *study, "--concurrency", "2"], tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len({path.parts[-3] for path in storage.root.glob("trials/*/attempt-*/checkpoint-*")}) < 2:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        busy = sorted(cluster.worker_nodes, key=lambda node: _cpus_free(node.node_id))[0]
        cluster.remove_node(busy, allow_graceful=False)
        cluster.add_node(num_cpus=2)
        assert driver.wait(timeout=200) == 0, (tmp_path / "log").read_text()
    finally:
        if driver.poll() is None:
            kill_driver(driver)
    assert_settled(server, "nodes", {"finished"})
    records = trials("nodes")
    assert len(records) == 4
    attempts = [storage.trial(record.key).outcome()["attempts"] for record in records]
    assert max(attempts) >= 2  # somebody took over from the node that died


def _cpus_free(node_id: str) -> float:
    ray.init(address=os.environ["RAY_ADDRESS"], ignore_reinit_error=True, log_to_driver=False, logging_level=40)
    return ray.state.available_resources_per_node().get(node_id, {}).get("CPU", 0.0)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_node_is_asked(cluster: Cluster, tmp_path: Path):
    ray.init(address=cluster.address, log_to_driver=False, logging_level=40)
    (tmp_path / "there").touch()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    for place in (str(tmp_path), f"file://{tmp_path}"):
        hosts = probe_nodes(nodes, place, "there")
        assert len(nodes) == len(hosts) == 3
        assert all(host.sees and abs(host.ahead) < host.asking + 1 for host in hosts)
    assert not any(host.sees for host in probe_nodes(nodes, str(tmp_path), "not there"))

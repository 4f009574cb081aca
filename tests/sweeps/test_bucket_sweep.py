"""A whole search in a bucket: killed, its disk lost, typed again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from laresa.training import fit
from sweeps import trials
from sweeps.service.storage.bucket import Bucket
from sweeps.service.storage.open import sweep_at
from tests.sweeps.conftest import QUICK, laresa
from tests.sweeps.test_kills import assert_settled, kill_driver, start


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("one_thread")
def test_killed_and_typed_again_on_an_empty_disk(
    s3: str, server: str, pictures: Path, tmp_path: Path, laresa_home: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("TMPDIR", str(disk))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # Ray's sockets bear no long path
    study = ["search", "--sweep", "afloat", "--dataset", str(pictures), "--trials", "2", "--epochs", "20", *QUICK]
    arguments = ["run", *study, "--sampler", "random", "--scheduler", "none", "--storage", s3]
    bucket = Bucket(f"{s3}/afloat")
    driver = start(arguments, tmp_path)
    try:
        deadline = time.monotonic() + 100
        while not any("checkpoint-" in name for name in bucket.names()):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
    finally:
        kill_driver(driver)
    shutil.rmtree(disk)
    disk.mkdir()
    laresa(*arguments, cwd=tmp_path)
    assert_settled(server, "afloat", {"finished"})
    records = trials("afloat")
    assert len(records) == 2
    attempts = {record.run_id: sweep_at(bucket.uri).trial(record.key).outcome()["attempts"] for record in records}
    resumed = max(records, key=lambda record: attempts[record.run_id])
    assert attempts[resumed.run_id] > 1
    undisturbed = fit(resumed.config, device="cpu")
    same = {name: value for name, value in undisturbed.metrics.items() if name != "seconds/train"}
    assert {name: resumed.metrics[name] for name in same} == same
    left = {Path(name).name for name in bucket.names() if not name.startswith("trials/")}
    assert left == {"plan.json", "code.json", "estimate.json", "optuna.journal"}
    assert not any("checkpoint-" in name for name in bucket.names())
    assert not (laresa_home / "storage" / "afloat").exists()

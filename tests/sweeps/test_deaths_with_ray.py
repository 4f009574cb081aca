"""As test_deaths, by the command itself: a driver or a worker of Ray is killed at a write, whichever comes to it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from laresa.files import FAILPOINT
from laresa.training import fit
from sweeps import trials
from sweeps.service.storage.files import SweepFolder
from tests.sweeps.conftest import ablation, laresa
from tests.sweeps.test_kills import assert_settled

DEATHS = int(os.environ.get("LARESA_DEATHS", "3"))  # 12 take some six minutes


@pytest.mark.slow
@pytest.mark.timeout(200 * (DEATHS + 2))
@pytest.mark.usefixtures("one_thread")
def test_a_death_at_some_of_all_writes(
    server: str, pictures: Path, tmp_path: Path, laresa_home: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each sweep dies once, at a place drawn from all that an undisturbed one passes; the command is typed again."""
    monkeypatch.chdir(tmp_path)
    passages = tmp_path / "passages"
    storage = laresa_home / "storage"

    def run(name: str, number: int) -> str:
        words = ablation(name, pictures, "ce,ce+anchor", seeds="77", epochs=3)  # a seed that no other sweep has
        monkeypatch.setenv(FAILPOINT, f"{passages}:{number}")
        passages.unlink(missing_ok=True)
        laresa("run", *words, check=False)
        died = passages.stat().st_size >= number
        monkeypatch.delenv(FAILPOINT)
        done = laresa("run", *words)
        assert "2 finished" in done.stdout
        return "died" if died else "ended"

    def check(name: str) -> None:
        assert_settled(server, name, {"finished"})
        records = trials(name)
        assert len(records) == len({record.signature for record in records}) == 2
        for record in records:
            assert SweepFolder(storage / name).trial(record.key).checkpoints() == []
            undisturbed = fit(record.config, device="cpu").metrics
            same = {name: value for name, value in undisturbed.items() if name != "seconds/train"}
            assert {name: record.metrics[name] for name in same} == same
        shutil.rmtree(storage / name)  # else the next takes over what this one trained
        record = records[0]
        api = MlflowClient(server)
        api.delete_experiment(api.get_experiment_by_name(name).experiment_id)

    assert run("deaths-undisturbed", 10**6) == "ended"
    count = passages.stat().st_size
    check("deaths-undisturbed")
    assert count > 40
    places = sorted(random.Random(0).sample(range(2, count - 2), DEATHS))
    died = 0
    for number in places:
        died += run(f"death-{number}", number) == "died"
        check(f"death-{number}")
        print(f"at {number} of {count}", flush=True)
    print(f"{died} deaths at {places} of {count} writes, 0 lost")
    assert died >= DEATHS - 1  # what two processes write has no one order

"""The user's own commands on three hosts: ray up, ray submit, a power cut in the middle, ray down; nothing left."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import hosts as pretend
from tests.cluster.hosts import Hosts
from tests.cluster.site import LARESA, Site, nodes, wait
from tests.readme import write_files

ROOT = Path(__file__).parents[2]
EPOCHS = 8
HOLD = "/tmp/hold"  # on a host's own disk
HELD = f"""
import pathlib, time

def held(done: float) -> float:
    while done >= 0.25 and pathlib.Path("{HOLD}").exists():
        time.sleep(0.1)
    return 1.0

LR_SCHEDULES = {{"held": held}}
"""
STUDY = ["--tune", "0", "--subsets", "ce,ce+anchor", "--seeds", "0,1", "--epochs", str(EPOCHS), "--sweep", "power"]
STUDY += ["--plugin", "/mnt/laresa/held.py", "--set", "schedule=held"]
STUDY += ["--cpus-per-trial", str(os.cpu_count())]  # one at a time on a host
TRIALS = "storage/power/trials/*"

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(pretend.missing() is not None, reason=str(pretend.missing())),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with pretend.up(3) as hosts:
        site = Site(hosts)
        site.run("ray", "up", "-y", str(site.yaml), timeout=120)
        wait(90, "cluster of three", lambda: nodes(hosts) == 3)
        yield site


def outcomes(hosts: Hosts) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in hosts.shared.glob(f"{TRIALS}/outcome.json")]


def test_a_client_without_the_token_is_refused(site: Site):
    ask = "env -u RAY_AUTH_TOKEN_PATH RAY_AUTH_MODE=disabled ray status"
    refused = site.hosts.sh(0, ask, check=False)
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr


def test_a_study_with_a_wrong_token_is_refused(site: Site):
    """And does not train on the head alone instead."""
    wrong = "echo -n 0123456789abcdef0123456789abcdef > /tmp/wrong; RAY_AUTH_TOKEN_PATH=/tmp/wrong"
    study = "laresa run ablation --tune 0 --subsets ce --seeds 0 --epochs 1 --sweep refused"
    refused = site.hosts.sh(0, f"{wrong} {study}", check=False, timeout=90)
    assert refused.returncode == 1
    assert "the Ray cluster can't be joined" in refused.stderr
    assert not list(site.hosts.shared.glob("storage/refused/trials/*"))


def test_a_client_without_the_password_is_refused(site: Site):
    said = site.run(LARESA, "best", "power", "--tracking-uri", site.server, timeout=60, expect=None)
    assert "401" in said or "authenticat" in said.lower()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{site.server}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=10)


def waiting(hosts: Hosts) -> int:
    """How many trials have the checkpoint of their second epoch, and wait in the third."""
    return len(list(hosts.shared.glob(f"{TRIALS}/attempt-0001/checkpoint-000002*")))


def successors(hosts: Hosts) -> set[str]:
    """The trials that somebody took over."""
    return {path.parts[-2] for path in hosts.shared.glob(f"{TRIALS}/attempt-0002")}


def test_power_cable_driver_and_server(site: Site):
    """A worker loses power, another its cable, then the driver dies; the command typed again, all is done.

    MLflow is away from the power cut until the driver is dead. Trials wait in their third epoch while their host says
    so: each blow falls on one that trains, however fast or loaded this machine is.
    """
    hosts, command = site.hosts, ("ray", "submit", str(site.yaml), "sweeps/ablation.py", *STUDY)
    (hosts.shared / "held.py").write_text(HELD)
    for host in range(3):
        hosts.sh(host, f"touch {HOLD}")
    study = site.start(*command)
    try:
        wait(240, "three trials that wait", lambda: waiting(hosts) == 3)
        # Its uvicorn names our app, and a file of MLflow's.
        hosts.sh(0, "pkill -KILL -f 'mlflow[ ]server|mlflow[./]server'")
        wait(10, "a tracking server that is gone", lambda: not answers(site.server))
        struck = time.time() * 1000
        hosts.kill(1)
        hosts.sh(0, f"rm {HOLD}")  # ends what it has, what nobody began, and what host 1 had
        wait(240, "three of four trials", lambda: len(outcomes(hosts)) == 3)
        hosts.sh(0, f"touch {HOLD}")
        assert len(successors(hosts)) == 1
        hosts.cut(2)
        wait(120, "successor of the trial on host 2", lambda: len(successors(hosts)) == 2)
        hosts.revive(1)
    finally:
        site.end(study)
    assert len(outcomes(hosts)) == 3, "the study was over before its driver died"
    wait(20, "end of the driver", lambda: not any("sweeps/ablation.py" in line for line in hosts.processes(0)))
    hosts.mend(2)
    hosts.sh(0, f"rm {HOLD}")
    hosts.sh(0, "laresa server --detach --host $(cat $LARESA_HOME/head)")
    site.run(*command, timeout=300)
    ended = outcomes(hosts)
    assert [outcome["state"] for outcome in ended] == ["finished"] * 4
    assert sorted(outcome["attempts"] for outcome in ended) == [1, 1, 2, 3]
    for outcome in ended:
        assert [row["epoch"] for row in outcome["history"]] == list(range(1, EPOCHS + 1))
        if outcome["attempts"] > 1:  # went on from its checkpoint
            assert [row["epoch"] for row in outcome["history"] if row["timestamp"] < struck] == [1, 2]


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/health", timeout=2).status == 200)
    except OSError:
        return False


def test_the_results_from_outside(site: Site):
    records = site.run(
        LARESA, "status", "power", "--json", "--tracking-uri", site.server, timeout=60, **site.password()
    )
    records = json.loads(records[records.index("[") :])
    assert [record["state"] for record in records] == ["finished"] * 4
    assert len({record["signature"] for record in records}) == 4
    best = site.run(LARESA, "best", "power", "--tracking-uri", site.server, timeout=60, **site.password())
    assert '"subset"' in best
    for record in records:
        assert (hosts_artifacts := list(site.hosts.shared.glob(f"mlflow/artifacts/*/{record['run_id']}/artifacts/*")))
        assert {"config.json", "latents.npz"} <= {path.name for path in hosts_artifacts}


def test_no_secret_was_written_down(site: Site):
    """Neither the token nor the password: in no log of Ray or MLflow, no checkpoint, no artifact, no database."""
    shared = site.hosts.shared
    for place in ("secrets/ray_token", "mlflow/admin_password"):
        secret = (shared / place).read_bytes()
        holders = {str(p.relative_to(shared)) for p in shared.rglob("*") if p.is_file() and secret in p.read_bytes()}
        assert holders == {place}
        found = site.hosts.sh(0, f"grep -rlF {secret.decode()} /tmp/ray/ | head", check=False).stdout
        assert found == ""
        assert not any(secret.decode() in line for i in range(3) for line in site.hosts.processes(i))


def test_a_host_that_came_back_with_an_empty_disk_joins_again(site: Site):
    wait(120, "cluster of three", lambda: nodes(site.hosts) == 3)


def test_submit_explains_itself(site: Site):
    """The exit code of the study; a wrong key; a head whose cable is out, within a minute."""
    write_files(site.hosts.state)
    plugin = ("--plugin", str(site.hosts.state / "my_terms.py"), "--subsets", "ce+angular")  # known there, or refused
    given = [LARESA, "submit", str(site.yaml), "ablation", *plugin]
    said = site.run(*given, "--sweep", "a b; touch /mnt/laresa/executed", timeout=60, expect=2)
    assert "sweep name 'a b; touch /mnt/laresa/executed'" in said  # arrived whole
    assert not (site.hosts.shared / "executed").exists()
    key = site.hosts.key.read_bytes()
    time.sleep(11)  # ssh shares a connection for ten seconds
    site.hosts.key.write_bytes((site.hosts.state / "host0" / "hostkey").read_bytes())
    assert "refuses the key" in site.run(*given, timeout=60, expect=1)
    site.hosts.key.write_bytes(key)
    site.hosts.cut(0)
    started = time.monotonic()
    assert "did not answer" in site.run(*given, timeout=80, expect=1)
    assert time.monotonic() - started < 60
    site.hosts.mend(0)


def test_the_head_dies_and_is_rebuilt(site: Site):
    """Its disk is empty; ray up again, the same command again: nothing is trained twice, MLflow has all of it."""
    site.hosts.kill(0)
    site.hosts.revive(0)
    site.run("ray", "down", "-y", str(site.yaml), timeout=90, expect=None)  # else ray up takes its notes for the truth
    site.run("ray", "up", "-y", str(site.yaml), timeout=120)
    before = [outcome["attempts"] for outcome in outcomes(site.hosts)]
    study = site.hosts.state / "own_study.py"  # the same study as the user's own file
    study.write_text(
        "import sweeps\nfrom sweeps.ablation import add_options, build\n"
        "if __name__ == '__main__':\n    sweeps.main(__file__)\n"
    )
    said = site.run("ray", "submit", str(site.yaml), str(study), *STUDY, timeout=120)
    assert "4 finished" in said
    assert [outcome["attempts"] for outcome in outcomes(site.hosts)] == before
    best = site.run(LARESA, "best", "power", "--tracking-uri", site.server, timeout=60, **site.password())
    assert '"subset"' in best


def test_down(site: Site):
    site.run("ray", "down", "-y", str(site.yaml), timeout=90)
    assert not [line for line in site.hosts.processes(0) if "gcs_server" in line or "raylet" in line]

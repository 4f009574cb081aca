"""A user's own term in a user's own study: trained, killed, continued, tracked, reported; then without its plugin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laresa import plugins
from laresa.training import fit
from sweeps import best, trials
from sweeps.service.storage.files import SweepFolder
from sweeps.service.tracking.sweep import Sweep
from tests.readme import write_files
from tests.sweeps.conftest import QUICK, laresa
from tests.sweeps.plugins import write_plugins
from tests.sweeps.test_kills import assert_settled, disturb

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("server", "one_thread"),
]
EPOCHS = 10


def test_an_own_term_in_an_own_study(server: str, pictures: Path, tmp_path: Path, laresa_home: Path):
    write_plugins(tmp_path)
    study = ["run", "my_study.py", "--plugin", "my_terms.py", "--sweep", "pulls", "--dataset", str(pictures)]
    arguments = [*study, "--epochs", str(EPOCHS), *QUICK]
    disturb(arguments, tmp_path, SweepFolder(laresa_home / "storage" / "pulls"), ["worker", "driver"], seed=2)
    assert_settled(server, "pulls", {"finished"})
    records = {record.arm: record for record in trials("pulls")}
    assert set(records) == {"gamma 1", "gamma 3"}

    # nothing of it is at hand here, and all that reads works
    assert plugins.loaded() == ()
    assert best("pulls", where={"angular.gamma": 3.0}).arm == "gamma 3"
    assert '"angular.gamma": 3.0' in laresa("best", "pulls", "--by", "angular.gamma", cwd=tmp_path).stdout
    laresa("report", "pulls", cwd=tmp_path)
    assert "gamma 3" in (tmp_path / "build" / "pulls" / "report.html").read_text()

    sweep = Sweep.open("pulls", server)
    run = sweep.api.get_run(records["gamma 3"].run_id)
    assert run.data.params["angular.gamma"] == "3.0"
    for name in ("train/loss_angular", "weight/angular"):
        steps = [metric.step for metric in sweep.api.get_metric_history(run.info.run_id, name)]
        assert sorted(steps) == list(range(1, EPOCHS + 1)), name
    figure = Path(sweep.api.download_artifacts(run.info.run_id, "figures/weights.svg", str(tmp_path)))
    assert ">angular<" in figure.read_text()
    kept = {item.path for item in sweep.api.list_artifacts(sweep.parent.info.run_id, "plugins")}
    assert kept == {"plugins/my_terms.py", "plugins/my_study.py", "plugins/my_gammas.py"}
    assert set(sweep.plugins) == {"my_terms.py", "my_study.py"}

    # to train again, it is needed
    refused = laresa("rerun", run.info.run_id, check=False, cwd=tmp_path)
    assert refused.returncode == 2
    assert "'angular" in refused.stderr
    assert "my_terms.py (sha256 " in refused.stderr
    found = laresa("rerun", run.info.run_id, "--plugin", "my_terms.py", "--json", cwd=tmp_path)
    assert json.loads(found.stdout)[0]["verdict"] == "equal to the bit"
    with plugins.isolated():
        plugins.load(str(tmp_path / "my_terms.py"))
        undisturbed = fit(records["gamma 1"].config, device="cpu")
    same = {name: value for name, value in undisturbed.metrics.items() if name != "seconds/train"}
    assert {name: records["gamma 1"].metrics[name] for name in same} == same


def test_an_own_loop_keeps_no_latents_and_is_reported(server: str, pictures: Path, tmp_path: Path):
    write_files(tmp_path)
    own = ["--plugin", "my_loop.py", "--set", "method=mlp", "--set", "augment=none", "--dataset", str(pictures)]
    study = ["run", "ablation", "--tune", "0", "--subsets", "ce", "--seeds", "0,1", "--epochs", "2", "--sweep", "loop"]
    said = laresa(*study, *own, cwd=tmp_path).stdout
    assert "2 finished" in said
    page = (tmp_path / "build" / "loop" / "report.html").read_text()
    assert "UMAP" not in page

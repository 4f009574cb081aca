"""MLflow's UI as a user's browser shows it, at the addresses that the sweep prints. Pictures: build/browsing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeps import trials
from sweeps.service.tracking.client import client
from tests import browser
from tests.sweeps.conftest import ablation, laresa

PICTURES = Path(__file__).parents[2] / "build" / "browsing"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(browser.MISSING is not None, reason=str(browser.MISSING)),
]


def test_the_sweep_a_trial_and_the_report_open_in_mlflow(server: str, pictures: Path, tmp_path: Path):
    ran = laresa("run", *ablation("browsed", pictures, "ce,ce+anchor", epochs=4), cwd=tmp_path)
    printed = re.search(r"^MLflow +(http\S+)$", ran.stdout, re.MULTILINE)
    assert printed, ran.stdout
    records = {record.arm: record for record in trials("browsed")}
    names = [f"{arm}, seed 0, fold 0" for arm in records]
    (parent,) = client(server).search_runs([_experiment(server)], "tags.`laresa.kind` = 'sweep'")
    PICTURES.mkdir(parents=True, exist_ok=True)
    run = f"{server}/#/experiments/{_experiment(server)}/runs"
    anchor = records["ce+anchor"]
    with browser.chromium() as chromium:
        columns = ["best/val/top1", "test/top1", "subset", "seed", "laresa.state"]
        listed = chromium.look(printed[1], ["browsed", *names, *columns, "finished"], PICTURES / "sweep.png")
        for record in records.values():
            assert str(record.metrics["best/val/top1"]) in listed
        overview = ["laresa.signature", anchor.signature, "Parent run", "train/loss_anchor", "batch_size"]
        chromium.look(f"{run}/{anchor.run_id}", overview, PICTURES / "trial.png")
        curves = ["best/val", "effective_rank", "hierarchical_distance", "Step"]  # more below, drawn when scrolled to
        chromium.look(f"{run}/{anchor.run_id}/model-metrics", curves, PICTURES / "curves.png")
        kept = ["checkpoint", "config.json", "history.json", "latents.npz", "figures"]
        chromium.look(f"{run}/{anchor.run_id}/artifacts", kept, PICTURES / "artifacts.png")
        report = ["report.html", "How to read it", "Test top-1 by arm"]
        chromium.look(f"{run}/{parent.info.run_id}/artifacts/report/report.html", report, PICTURES / "report.png")


def _experiment(server: str) -> str:
    return str(client(server).get_experiment_by_name("browsed").experiment_id)

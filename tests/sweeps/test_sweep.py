"""Real sweeps: Ray Tune, a real MLflow server, pictures on disk; killed, disturbed, run again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from laresa.data import load
from laresa.training import fit
from sweeps import best, best_n, trials
from sweeps.service.tracking.client import client
from tests.sweeps.conftest import ablation, laresa

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("server", "one_thread")]
EPOCHS = 6


def arguments(sweep: str, pictures: Path, *more: str) -> list[str]:
    return ["run", *ablation(sweep, pictures, "ce,ce+anchor", "0,1", EPOCHS), *more]


def runs(url: str, sweep: str):
    api = client(url)
    experiment = api.get_experiment_by_name(sweep)
    return api, list(api.search_runs([experiment.experiment_id]))


def assert_complete(url: str, sweep: str, count: int = 4, epochs: int = EPOCHS) -> None:
    """Every trial one finished run, each epoch's metrics once, one parent, nothing left RUNNING."""
    api, found = runs(url, sweep)
    kinds = Counter(run.data.tags["laresa.kind"] for run in found)
    assert kinds == {"sweep": 1, "trial": count, "arm": 2}
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in found:
        if run.data.tags["laresa.kind"] == "trial":
            for name in ("val/top1", "train/loss", "weight/ce"):
                steps = [metric.step for metric in api.get_metric_history(run.info.run_id, name)]
                assert sorted(steps) == list(range(1, epochs + 1)), (name, steps)


def test_sweep_from_nothing_to_report(server: str, pictures: Path, tmp_path: Path):
    done = laresa(*arguments("whole", pictures), cwd=tmp_path)
    assert "4 finished" in done.stdout
    assert_complete(server, "whole")
    report = tmp_path / "build" / "whole" / "report.html"
    assert "ce+anchor" in report.read_text()

    api, found = runs(server, "whole")
    parent = next(run for run in found if run.data.tags["laresa.kind"] == "sweep")
    assert "report/report.html" in [item.path for item in api.list_artifacts(parent.info.run_id, "report")]
    own = {run.data.tags["laresa.kind"]: run for run in found if run.data.tags.get("laresa.arm") == "ce+anchor"}
    child, together = own["trial"], own["arm"].data.metrics
    assert (together["n"], together["trials"], together["test_sets"]) == (2, 2, 1)
    seen = [
        run.data.metrics["test/top1"]
        for run in found
        if run.data.tags.get("laresa.arm") == "ce+anchor" and run is not own["arm"]
    ]
    assert together["mean/test/top1"] == pytest.approx(sum(seen) / 2)
    names = {
        item.path for place in ("", "checkpoint", "figures") for item in api.list_artifacts(child.info.run_id, place)
    }
    assert {
        "config.json",
        "history.json",
        "latents.npz",
        "checkpoint/model.safetensors",
        "figures/weights.svg",
    } <= names
    assert {"test/top1", "test/nn_hit", "test/silhouette", "test/spearman_fine", "best_epoch"} <= set(
        child.data.metrics
    )
    assert child.data.params["subset"] == "ce+anchor"
    assert child.data.tags["laresa.collapsed"] in ("true", "false")
    assert child.data.tags["laresa.data_fingerprint"]

    # the query gives a configuration that trains again to the same result, to the bit
    record = best("whole", metric="val/top1", where={"subset": "ce+anchor"})
    assert record.provenance["tree_fingerprint"] == load(record.config).taxonomy.fingerprint
    again = fit(record.config, device="cpu")
    same = {name: value for name, value in again.metrics.items() if name != "seconds/train"}
    assert same == {name: record.metrics[name] for name in same}
    assert len(trials("whole", as_frame=True)) == 4
    assert {r.config.subset for r in best_n("whole", by="subset")} == {"ce", "ce+anchor"}

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    exec(code.replace('"demo"', '"whole"'), names := {})  # the README's own lines, on this sweep
    assert len(names["frame"]) == 4

    # run again: nothing is trained twice
    stamps = {run.info.run_id: run.info.end_time for run in found if run.data.tags["laresa.kind"] == "trial"}
    repeated = laresa(*arguments("whole", pictures), cwd=tmp_path)
    assert "4 trials, 4 finished before" in repeated.stderr
    _, later = runs(server, "whole")
    assert stamps == {run.info.run_id: run.info.end_time for run in later if run.data.tags["laresa.kind"] == "trial"}

    listed = json.loads(laresa("best", "whole", "--n", "2", "--json", cwd=tmp_path).stdout)
    assert len(listed) == 2
    assert listed[0]["metrics"]["best/val/top1"] >= listed[1]["metrics"]["best/val/top1"]
    assert laresa("status", "whole", cwd=tmp_path).stdout.startswith("whole: 4 finished\n")


def test_tracking_server_that_does_not_answer_is_said_before_training(pictures: Path, tmp_path: Path):
    done = laresa(
        *arguments("nowhere", pictures, "--tracking-uri", "http://127.0.0.1:9", "--storage", str(tmp_path / "s")),
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "no MLflow server answers at http://127.0.0.1:9" in done.stderr
    assert not list(tmp_path.glob("s/*/trials"))


def test_a_trial_that_fails_is_recorded_and_the_others_finish(server: str, pictures: Path, tmp_path: Path):
    study = ablation("failing", pictures, "ce,ce+reg")
    done = laresa("run", *study, "--set", "lr=1e18", check=False, cwd=tmp_path)
    assert done.returncode == 1
    states = {record.arm: record for record in trials("failing")}
    assert {record.state for record in states.values()} == {"failed"}
    assert "the loss is" in states["ce+reg"].error
    assert "NonFiniteLossError" in states["ce+reg"].error
    api, found = runs(server, "failing")
    assert {run.info.status for run in found} == {"FAILED"}
    failed = states["ce+reg"].run_id
    assert "traceback.txt" in [item.path for item in api.list_artifacts(failed)]

"""MLflow's UI as a user's browser shows it, at the addresses that the sweep prints. Pictures: build/browsing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeps import trials
from sweeps.service.tracking.client import client
from sweeps.service.tracking.stops import asked_to_stop, forget_stops
from sweeps.service.tracking.write import open_sweep
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


STOP = """(async () => {
const until = (find) => new Promise((done, fail) => {
  const end = Date.now() + 20000;
  (function look() {
    const found = find();
    if (found) return done(found);
    if (Date.now() > end) return fail(new Error(String(find)));
    setTimeout(look, 50);
  })();
});
const type = (field, text) => {
  field.focus();
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, text);
  field.dispatchEvent(new Event('input', {bubbles: true}));
};
const named = (name) => document.querySelector(`[aria-label="${name}"]`);
const saying = (kind, words) =>
  [...document.querySelectorAll(kind)].find((e) => e.innerText.includes(words) && !e.disabled);
(await until(() => named('Edit tags'))).click();
const key = await until(() => document.querySelector('[role=dialog] input[role=combobox]'));
key.dispatchEvent(new MouseEvent('mousedown', {bubbles: true}));
type(key, 'laresa.stop');
(await until(() => saying('[class*=select-item-option]', 'laresa.stop'))).click();
type(named('Value'), 'true');
await new Promise((done) => setTimeout(done, 300));
named('Add tag').click();
(await until(() => saying('button', 'Save tags'))).click();
await until(() => !document.querySelector('[role=dialog]'));
})()"""


def test_a_click_on_a_run_asks_it_to_stop(server: str):
    """Edit tags, a key, a value, Add, Save: on a trial it is the trial that is asked, on the sweep's run the sweep."""
    sweep, api = open_sweep(server, "clicked", {}), client(server)
    named = {"laresa.kind": "trial", "laresa.signature": "s", "laresa.code": "c"}
    run = api.create_run(sweep.experiment_id, tags=named).info.run_id
    page = f"{server}/#/experiments/{sweep.experiment_id}/runs"
    assert asked_to_stop(api, sweep) == (False, [])
    with browser.chromium() as chromium:
        chromium.visit(f"{page}/{run}", [STOP], width=1600)
        assert asked_to_stop(api, sweep) == (False, ["s-c"])
        chromium.visit(f"{page}/{sweep.parent_run_id}", [STOP], width=1600)
        assert asked_to_stop(api, sweep) == (True, ["s-c"])
    forget_stops(api, sweep)
    assert asked_to_stop(api, sweep) == (False, [])


def _experiment(server: str) -> str:
    return str(client(server).get_experiment_by_name("browsed").experiment_id)

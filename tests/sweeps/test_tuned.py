"""The fair ablation end to end: every arm its own search, budget and scheduler, and a table at the end."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from sweeps import best_n, trials
from sweeps.service.storage.files import SweepFolder
from tests.sweeps.conftest import QUICK, laresa

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("server", "one_thread")]
ARMS = ("ce", "ce+reg", "ce+anchor", "ce+anchor+triplet+reg")
TUNE, EPOCHS = 3, 6


def test_four_arms_of_very_different_levels_are_all_tuned_and_compared(
    pictures: Path, tmp_path: Path, laresa_home: Path
):
    study = ["ablation", "--sweep", "tuned", "--dataset", str(pictures), "--subsets", ",".join(ARMS), "--seeds", "0,1"]
    options = [*study, "--tune", str(TUNE), "--epochs", str(EPOCHS), *QUICK]
    planned = laresa("plan", *options, cwd=tmp_path).stdout
    assert planned.startswith(f"tuned: each arm is tuned on {TUNE} x {EPOCHS} = 18 epochs")
    assert planned.count("budget of 3 x 6 = 18 epochs; 0 asked, 0 told, 0 epochs spent") == len(ARMS)

    done = laresa("run", *options, cwd=tmp_path)
    assert done.stdout.startswith("tuned: each arm is tuned")
    ended = {arm: tuple(map(int, numbers)) for arm, *numbers in re.findall(
        r"^searched +(\S+): (\d+) trials, (\d+) of 18 epochs; the best that finished is taken$", done.stdout, re.M
    )}  # fmt: skip
    assert set(ended) == set(ARMS)
    found = trials("tuned", with_history=True)
    searched = [record for record in found if record.provenance["role"] == "search" or "searched" in record.provenance]
    evidence = [record for record in found if record.provenance["role"] == "evidence"]
    for arm, (told, epochs) in ended.items():
        own = [record for record in searched if record.arm == arm]
        assert told >= len(own) >= TUNE  # a configuration that is asked for twice is trained once
        assert 18 - EPOCHS < epochs <= 18
        assert sum(len(record.history) for record in own) <= epochs
        reached = {r.config.lr: r.metrics["best/val/top1"] for r in own if r.state == "finished"}
        compared = [record for record in evidence if record.arm == arm]
        assert {(r.config.seed, r.config.fold) for r in compared} == {(0, 0), (1, 0)}
        assert {(r.state, r.provenance["chosen"]) for r in compared} == {("finished", "finished")}
        (lr,) = {r.config.lr for r in compared}
        assert reached[lr] == max(reached.values())  # which of equals is the search's own affair
    levels = [max(r.metrics["best/val/top1"] for r in evidence if r.arm == arm) for arm in ARMS]
    assert Counter(record.arm for record in evidence) == dict.fromkeys(ARMS, 2), levels

    assert {r.run_id for r in best_n("tuned", n=99)} == {r.run_id for r in evidence}  # no arm's tuning beside them
    (top,) = best_n("tuned", where={"role": "search"})
    assert top.provenance["role"] == "search"

    again = laresa("run", *options, cwd=tmp_path)
    assert "nothing was left to train" in again.stdout
    assert len(trials("tuned")) == len(found)
    assert not SweepFolder(laresa_home / "storage" / "tuned").busy()

"""Results that other code learned: refused, kept and marked, or trained anew, and never mixed in silently."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

import laresa as package
from laresa.code import Code
from laresa.config import TrialConfig
from laresa.errors import ConfigError
from sweeps import trials
from sweeps.service import provenance
from sweeps.service.planning.code import CodeBook, decide, keep_decision, planned_now
from sweeps.service.planning.estimate import read_journal
from sweeps.service.planning.plan import plan
from sweeps.service.search.optuna_source import OptunaSource
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Cell, PlannedTrial, Replicate, RunOptions, Search, Study
from sweeps.service.tracking.client import client
from sweeps.service.worker import checks
from tests.sweeps.conftest import ablation, laresa

CE = TrialConfig(subset="ce")
STUDY = Study("toy", (Cell("ce", CE),), (Replicate(0, 0), Replicate(1, 0), Replicate(2, 0)))
ACCEPT, RETRAIN = RunOptions(accept_code=True), RunOptions(retrain=True)
NONE = RunOptions()


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Have another code here, named by a word; its digest."""

    def become(word: str) -> str:
        found = Code({"laresa/losses.py": word, "laresa/training.py": "same"})
        monkeypatch.setattr("sweeps.service.provenance._found", lambda roots, folders: (found, {}))
        return found.digest

    return become


def go_on(study: Study, folder: SweepFolder, options: RunOptions = NONE, tracked: tuple[str, ...] = ()) -> Study:
    """What `run` does before it trains."""
    book, planned = CodeBook(folder), planned_now(study, folder, options)
    study = decide(study, book, planned, {*folder.keys(), *tracked}, options)
    keep_decision(study, book, planned, folder)
    return study


def half_done(folder: SweepFolder) -> list[PlannedTrial]:
    """One finished, one under way, one not begun."""
    finished, begun, new = go_on(STUDY, folder).trials()
    folder.trial(finished.key).new_attempt().conclude({"state": "finished"})
    folder.trial(begun.key).new_attempt().checkpoint(3).touch()
    return [finished, begun, new]


def states(study: Study, folder: SweepFolder) -> list[str]:
    return [row.state for row in plan(study, folder, {})]


def test_other_code_is_refused_with_the_files_and_both_choices(code, tmp_path: Path):
    code("then")
    folder = SweepFolder(tmp_path)
    half_done(folder)
    assert states(go_on(STUDY, folder), folder) == ["deliver", "resume", "new"]
    code("now")
    with pytest.raises(
        ConfigError, match=r"'toy': 2 of its trials .*changed: laresa/losses\.py\).*--accept.*--retrain"
    ):
        go_on(STUDY, folder)
    only_new = replace(STUDY, replicates=STUDY.replicates[2:])
    assert states(go_on(only_new, folder), folder) == ["new"]  # nothing of what it plans was learned by other code


def test_accepted_is_kept_continued_and_marked_for_this_code_alone(code, tmp_path: Path):
    then = code("then")
    folder = SweepFolder(tmp_path)
    half_done(folder)
    now = code("now")
    accepted = go_on(STUDY, folder, ACCEPT)
    assert states(accepted, folder) == ["deliver", "resume", "new"]
    assert [(t.code, t.accepted_by) for t in accepted.trials()] == [(then, now), (then, now), (now, "")]
    assert go_on(STUDY, folder).trials() == accepted.trials()  # not asked again
    code("later")
    with pytest.raises(ConfigError, match="2 of its trials"):
        go_on(STUDY, folder)


def test_retrained_begins_anew_and_what_was_learned_by_the_old_code_is_found_when_it_is_back(code, tmp_path: Path):
    code("then")
    folder = SweepFolder(tmp_path)
    old = half_done(folder)
    code("now")
    go_on(STUDY, folder, ACCEPT)
    anew = go_on(STUDY, folder, RETRAIN)  # what was accepted too
    assert states(anew, folder) == ["new", "new", "new"]
    assert CodeBook(folder).superseded == {old[0].key, old[1].key}
    key = anew.trials()[0].key
    assert states(go_on(STUDY, folder), folder) == ["new", "new", "new"]  # killed now, it needs no flag again
    folder.trial(key).new_attempt().conclude({"state": "finished"})
    code("then")
    with pytest.raises(ConfigError, match="1 of its trials"):
        go_on(STUDY, folder)
    assert states(go_on(STUDY, folder, RETRAIN), folder) == ["deliver", "resume", "new"]
    assert CodeBook(folder).superseded == {key}


def test_what_only_the_tracker_knows_counts_too(code, tmp_path: Path):
    code("then")
    known = STUDY.trials()[0].key
    code("now")
    with pytest.raises(ConfigError, match=r"1 of its trials .*\(its files are not on record\)"):
        go_on(STUDY, SweepFolder(tmp_path), NONE, (known,))
    assert go_on(STUDY, SweepFolder(tmp_path), ACCEPT, (known,)).trials()[0].key == known


def test_a_half_batch_is_found_with_its_whole(code, tmp_path: Path):
    code("then")
    folder = SweepFolder(tmp_path)
    whole = STUDY.trials()[0]
    half = PlannedTrial("ce", whole.config.replace(batch_size=64))
    for trial in (whole, half):
        folder.trial(trial.key).new_attempt().conclude({"state": "failed"})
    code("now")
    kept = go_on(STUDY, folder, replace(ACCEPT, halve_batch=True))
    assert kept.find(PlannedTrial("ce", half.config)).key == half.key


def searched(folder: SweepFolder, study: Study) -> OptunaSource:
    return OptunaSource(study.searches[0], folder, study.find, study.find)


def test_a_search_meets_the_same_question(code, tmp_path: Path):
    search = Search("search", CE, {"lr": FloatDistribution(1e-4, 1e-2, log=True)}, 3, Replicate(0, 0))
    study, folder = Study("toy", (), (), (search,)), SweepFolder(tmp_path)
    then = code("then")
    source = searched(folder, go_on(study, folder))
    told, running = (source.next().trials[0] for _ in range(2))
    assert told is not None
    assert running is not None
    outcome = {"state": "finished", "metrics": {"best/val/top1": 0.5}, "history": []}
    folder.trial(told.key).new_attempt().conclude(outcome)
    source.concluded(told, outcome)
    folder.trial(running.key).new_attempt().checkpoint(1).touch()
    now = code("now")
    with pytest.raises(ConfigError, match="2 of its trials"):
        go_on(study, folder)
    source = searched(folder, go_on(study, folder, ACCEPT))
    again, third = (source.next().trials[0] for _ in range(2))
    assert (again, source.spent.told) == (running, 1)  # under way, it goes on in its place
    assert third is not None
    assert (again.code, third.code) == (then, now)
    assert [trial.code for trial in source.planned()] == [then, then, now]
    anew = searched(folder, go_on(study, folder, RETRAIN))
    assert (anew.spent.told, anew.planned()) == (0, [])  # what it heard of other code steers it no more
    first = anew.next().trials[0]
    assert first is not None
    assert (first.signature, first.code) == (told.signature, now)
    go_on(study, folder)
    assert read_journal(study, folder)["search"].spent.asked == 1  # and it is not forgotten once more


def test_a_worker_with_another_file_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "_own", {})
    monkeypatch.setattr("platform.node", lambda: "host7")
    files = dict(provenance.bytes_of(CE))
    checks.check_code(files)
    with pytest.raises(checks.OtherCodeError, match=r"host7 has another laresa/losses\.py .*here, 0123 there"):
        checks.check_code({**files, "laresa/losses.py": "0123"})
    with pytest.raises(checks.OtherCodeError, match=r"another my_terms\.py .*sha256 missing here"):
        checks.check_code({**files, "my_terms.py": "0123"})


def test_the_loader_belongs_to_the_code(tmp_path: Path):
    for dataset, loader in (("emoji120", "emoji120"), ("cub200", "cub200"), (str(tmp_path), "folder")):
        roots = provenance.roots_of(CE.replace(dataset=dataset))
        assert {path.name for path in roots} >= {"end_to_end.py", "cross_entropy.py", f"{loader}.py"}
        assert not any(path.parent.name == "data" and path.stem not in (loader, "augment") for path in roots)
        assert all(path.exists() for path in roots)


# ---------------------------------------------------------------------- real sweeps


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which the commands of this test use."""
    source, target = Path(package.__file__).parent, tmp_path / "code" / "laresa"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.npz", "__pycache__"))
    monkeypatch.setenv("PYTHONPATH", f"{target.parent}{os.pathsep}{source.parent}")
    return target


def put(path: Path, before: str, after: str) -> None:
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_change_of_code_to_the_table(
    server: str, laresa_home: Path, pictures: Path, copied: Path, tmp_path: Path
):
    # A learning rate that no other test's sweep on this server has: its runs would be reused too.
    own = ("--set", "lr=0.00117")

    def study(sweep: str, *more: str) -> list[str]:
        return [*ablation(sweep, pictures, "ce", epochs=2), *own, *more]

    laresa("run", *study("coded"), cwd=tmp_path)
    (first,) = trials("coded")
    term = copied / "losses" / "cross_entropy.py"
    put(term, '"""', '"""Other words: ')
    put(term, "\n", "\n# a comment\n")
    assert "1 finished before" in laresa("run", *study("coded"), cwd=tmp_path).stderr

    put(term, "return functional", "return 2 * functional")
    refused = laresa("run", *study("coded"), check=False, cwd=tmp_path)
    assert refused.returncode == 2
    for words in ("1 of its trials", "changed: laresa/losses/cross_entropy.py", "--accept-code", "--retrain"):
        assert words in refused.stderr
    assert "other code" in laresa("plan", *study("coded"), cwd=tmp_path).stdout
    told, name = laresa("plan", *study("taken"), cwd=tmp_path).stdout, "laresa/losses/cross_entropy.py"
    assert f"1 more finished elsewhere under other code (changed: {name}): --accept-code reuses them" in told
    assert "0 done, 1 to train" in told

    kept = laresa("run", *study("coded", "--accept-code"), cwd=tmp_path)
    assert "1 finished before" in kept.stderr
    (record,) = trials("coded")
    assert (record.run_id, record.metrics) == (first.run_id, first.metrics)
    assert record.provenance["code_accepted"] != record.provenance["code"] == first.provenance["code"]
    assert "1 of 1 trials were learned by other code (accepted)" in (tmp_path / "build/coded/report.html").read_text()

    laresa("run", *study("taken", "--accept-code"), cwd=tmp_path)
    (taken,) = trials("taken")
    assert taken.provenance["reused_from"] == first.run_id
    assert [taken.provenance[name] for name in ("code", "code_accepted")] == [
        record.provenance[name] for name in ("code", "code_accepted")
    ]
    book = CodeBook(SweepFolder(laresa_home / "storage" / "taken"))
    assert book.accepted_keys() == {taken.key: taken.provenance["code_accepted"]}

    laresa("run", *study("coded", "--retrain"), cwd=tmp_path)
    (anew,) = trials("coded")
    assert anew.run_id != first.run_id
    assert (anew.provenance["code"], "code_accepted" in anew.provenance) == (record.provenance["code_accepted"], False)
    assert client(server).get_run(first.run_id).data.tags["laresa.superseded"] == "true"

"""Search trials in a report: told apart from the evidence, ranked on validation, drawn by Optuna."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.trial import TrialState

from laresa.measurement import Measurement
from reports import Report, build_report, candidates, importance
from reports.formats import to_csv, to_markdown
from reports.select import BEST_VALIDATION
from sweeps.service.tracking.records import TrialRecord
from sweeps.service.tracking.sweep import Sweep
from tests.reports.handmade import column, found_against_base, record

SPACE = {
    "subset": CategoricalDistribution(("ce", "ce+triplet")),
    "lr": FloatDistribution(1e-4, 1e-2, log=True),
    "triplet.margin": FloatDistribution(0.05, 0.8),
}


def tried(
    val: float | None, *, arm: str = "search", state: str = "finished", test: float | None = None, **config: object
) -> TrialRecord:
    """A search trial that measured `val` on validation, half of it after the first epoch."""
    metrics = {} if val is None else {"best/val/top1": val}
    metrics |= {} if test is None else {"test/top1": test}
    history = () if val is None else tuple(Measurement(e, {"val/top1": val * e / 2}, 1.0) for e in (1, 2))
    made = record("ce", None, state=state, metrics=metrics, history=history, provenance={"role": "search"}, **config)
    return replace(made, arm=arm)


def few() -> list[TrialRecord]:
    """Three finished, whose test contradicts their validation, one pruned above them all, one failed."""
    return [
        tried(0.60, lr=0.001, test=0.9),
        tried(0.64, lr=0.002, test=0.1),
        tried(0.62, lr=0.004),
        tried(0.70, lr=0.003, state="pruned"),
        tried(None, lr=0.005, state="failed"),
    ]


def many(count: int = 14, arm: str = "search") -> list[TrialRecord]:
    """A third ce, the others ce+triplet, better the higher lr and margin; every seventh pruned."""
    return [
        tried(
            0.5 + 0.01 * i,
            arm=arm,
            state="pruned" if i % 7 == 6 else "finished",
            subset="ce+triplet" if i % 3 else "ce",
            lr=0.0002 * (i + 1),
            **({"triplet.margin": 0.05 + 0.025 * i} if i % 3 else {}),
        )
        for i in range(count)
    ]


def report(trials: list[TrialRecord], out: Path, space: importance.Space | None = SPACE) -> Report:
    return build_report(trials, out, latents=lambda _: None, title="t", space=space)


def drawn(made: Report) -> list[str]:
    return [path.stem for path in made.figures if path.suffix == ".png"]


# ---------------------------------------------------------------------------------------------------- words, tables
def test_the_description_counts_by_state() -> None:
    assert candidates.describe(few()) == (
        "search: 5 trials, 3 finished, 1 pruned, 1 failed; selected on validation only"
    )
    assert candidates.describe([*few(), *many(14, "other")]).startswith("2 searches: 19 trials, 15 finished, 3 pruned")
    assert candidates.describe([]) == ""


def test_roles_are_told_apart_and_a_promoted_trial_is_both() -> None:
    plain, asked = record("ce", 0.5), tried(0.6)
    both = replace(tried(0.7, lr=0.002), provenance={"role": "evidence", "searched": "true"})
    assert candidates.split([plain, asked, both]) == ([plain, both], [asked, both])


def test_the_best_are_ranked_by_validation_whatever_test_says() -> None:
    table = candidates.best_table(few(), BEST_VALIDATION)
    assert table is not None
    assert column(table, "configuration") == ["lr 0.002", "lr 0.004", "lr 0.001"]
    assert column(table, "validation top-1 [%]") == ["64.0", "62.0", "60.0"]
    assert column(table, "test top-1 [%], not used") == ["10.0", "–", "90.0"]
    assert to_csv(table).splitlines()[0] == "search,rank,signature,configuration,validation_top1,test_top1"
    assert "Ranked by validation top-1; test top-1 is shown where it was measured and chose nothing." in table.notes
    assert all(not cell.mark for block in table.blocks for row in block.rows for cell in row)


def test_a_front_by_severity_shows_the_top1_beside_it() -> None:
    def mild(severity: float, hit: float, top1: float, lr: float) -> TrialRecord:
        found = {"mistake_severity": severity, "mistake_severity_crm": severity, "nn_hit": hit, "top1_crm": top1 / 2}
        made = tried(top1, lr=lr)
        return replace(made, metrics={**made.metrics, **{f"best/val/{name}": value for name, value in found.items()}})

    trials = [mild(1.5, 0.25, 0.5, 0.001), mild(1.25, 0.125, 0.25, 0.002), mild(1.75, 0.125, 0.75, 0.003)]
    table = candidates.pareto_table(trials, ("val/nn_hit", "val/mistake_severity"))
    assert table is not None
    assert [c.title for c in table.columns][2:] == ["val/nn_hit", "val/mistake_severity (low is good)", "val/top1"]
    assert column(table, "val/top1") == ["0.500", "0.250"]  # top-1 chose nothing: the third is on no front
    table = candidates.pareto_table(trials, ("val/mistake_severity_crm", "val/nn_hit"))
    assert table is not None
    assert column(table, "val/top1_crm") == ["0.125", "0.250"]
    both = candidates.pareto_table(trials, ("val/top1", "val/mistake_severity"))
    assert both is not None
    assert [c.title for c in both.columns].count("val/top1") == 1


def test_several_searches_show_three_each() -> None:
    table = candidates.best_table([*few(), *many(14, "other")], BEST_VALIDATION)
    assert table is not None
    assert [(block.title, len(block.rows)) for block in table.blocks] == [("search", 3), ("other", 3)]
    assert candidates.best_table([few()[4]], BEST_VALIDATION) is None


def test_what_became_of_every_search_trial() -> None:
    lines = to_markdown(candidates.states_table(few())).splitlines()
    assert lines[4] == "| search | 3 | 1 | 1 | 0 | 0 | 1 | – |"
    assert lines[-1].strip() == "Search: 5 trials, 3 finished, 1 pruned, 1 failed; selected on validation only."


# ---------------------------------------------------------------------------------------------------- the study
def test_the_study_is_rebuilt_with_states_values_and_epochs() -> None:
    study = importance.rebuild("search", [*few(), tried(0.9, lr=0.006, state="running")], SPACE)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED, TrialState.FAIL]
    assert study.trials[0].params == {"subset": "ce", "lr": 0.001}  # no triplet, no margin
    assert study.trials[3].intermediate_values == {1: 35.0, 2: 70.0}
    assert study.best_value == 64.0
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE


def test_a_setting_outside_the_space_leaves_the_trial_without_it() -> None:
    study = importance.rebuild("search", [tried(0.5, lr=0.5), tried(0.5, subset="ce+anchor")], SPACE)
    assert [trial.params for trial in study.trials] == [{"subset": "ce"}, {"lr": 0.001}]


def test_one_number_of_several_is_a_parameter() -> None:
    space = {"anchor.beta.1": FloatDistribution(0, 2), "alpha_init.anchor": FloatDistribution(-1, 3)}
    chosen = tried(0.5, subset="ce+anchor", **{"anchor.beta": [1.0, 0.5], "alpha_init.anchor": 2.0})
    study = importance.rebuild("search", [chosen, tried(0.5)], space)
    assert [trial.params for trial in study.trials] == [{"anchor.beta.1": 0.5, "alpha_init.anchor": 2.0}, {}]
    assert candidates.configuration(chosen, ["anchor.beta", "alpha_init.anchor", "triplet.margin"]) == (
        "anchor.beta (1, 0.5), alpha_init.anchor 2"
    )


def test_importance_says_over_which_trials_and_parameters() -> None:
    found = importance.scopes("search", many(28), SPACE)
    assert [(scope.title, scope.params) for scope in found] == [
        ("all 24 finished trials, what all have", ("subset", "lr")),
        ("all 24 finished trials, conditional ones too", ("subset", "lr", "triplet.margin")),
        ("the 16 with ce+triplet, what all have", ("lr", "triplet.margin")),
    ]
    table = importance.table(found, named=False)
    assert table is not None
    for block in table.blocks:
        for number in (1, 2):
            shares = [row[number].values[0] for row in block.rows]
            assert shares == [None] * len(shares) or sum(map(float, filter(None, shares))) == pytest.approx(1)
    assert importance.table(importance.scopes("search", many(8), SPACE), named=False) is None


# ---------------------------------------------------------------------------------------------------- the report
def test_a_sweep_of_search_trials_alone(tmp_path: Path) -> None:
    made = report(many(), tmp_path)
    assert made.summary == (
        "Search: 14 trials, 12 finished, 2 pruned; selected on validation only.",
        "search: the best by validation has top-1 62.0 % there, with subset ce, lr 0.0026 "
        f"(trial {many()[12].signature}); as the best of 12 it flatters itself.",
        "No arms are compared: that takes evidence, a chosen configuration trained on every replicate.",
    )
    assert [path.stem for path in made.tables if path.suffix == ".md"] == ["search", "importance", "search_trials"]
    assert drawn(made) == [
        *("search-history", "search-parallel", "search-importance-fanova", "search-importance-ped_anova"),
        *("search-slice", "search-intermediate"),
    ]
    page = made.html.read_text()
    assert all(path.stat().st_size > 40 for path in made.files)
    assert '<section id="search">' in page
    assert '<section id="tables">' not in page
    assert "test_top1" in made.tables[2].read_text()


def test_search_trials_change_no_number_of_the_evidence(tmp_path: Path) -> None:
    evidence = [record(arm, 0.5 + 0.01 * seed, seed=seed) for arm in ("ce", "ce+triplet") for seed in range(3)]
    alone = report(evidence, tmp_path / "alone", space=None)
    beside = report([*evidence, *many(arm="ce+triplet")], tmp_path / "beside", space=None)
    for name in ("top1.csv", "comparisons.csv", "latents.csv", "failures.csv", "epochs.csv"):
        assert (alone.html.parent / "tables" / name).read_bytes() == (beside.html.parent / "tables" / name).read_bytes()
    assert "Not in this table: search: 14 trials, 12 finished, 2 pruned; selected on validation only." in (
        beside.tables[0].read_text()
    )
    assert "The search space was not recorded with this sweep" in beside.html.read_text()


def test_several_searches_are_drawn_compactly(tmp_path: Path) -> None:
    made = report([*many(arm="a"), *many(arm="b"), *few()], tmp_path)
    assert drawn(made) == [
        "search-history",
        *("search-1-parallel", "search-1-importance-fanova", "search-2-parallel", "search-2-importance-fanova"),
    ]
    assert "Too few measured trials for pictures, which take 10: search (4)." in made.html.read_text()


def test_a_search_whose_trials_were_mostly_stopped_early_has_its_pictures(tmp_path: Path) -> None:
    trials = [replace(t, state="pruned" if i % 4 else "finished") for i, t in enumerate(many(24))]
    made = report(trials, tmp_path)
    assert drawn(made) == ["search-history", "search-parallel", "search-intermediate"]
    text = made.html.read_text()
    assert "Too few finished trials for importance, which takes 10: search (6)." in text
    assert "stopped early" in text
    (study,) = (importance.rebuild("search", trials, SPACE),)
    whole = importance.with_stopped(study)
    assert len(whole.trials) == 24
    assert [t.params[importance.STOPPED] for t in whole.trials].count("yes") == 18
    best = {round(t.value, 9) for t in whole.trials if t.params[importance.STOPPED] == "yes"}
    assert best == {round(100 * (0.5 + 0.01 * i), 9) for i in range(24) if i % 4}


def test_the_pictures_leave_no_trace_and_repeat_to_the_byte(tmp_path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    before = dict(mpl.rcParams)
    one, other = (report(many(), tmp_path / name) for name in "ab")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    assert [path.read_bytes() for path in one.files] == [path.read_bytes() for path in other.files]


def test_a_row_that_lost_replicates_is_told_how_many_it_needs() -> None:
    from reports.comparison_tables import baseline_table

    rows = [record(arm, 0.5 + 0.01 * s, seed=s) for arm in ("ce", "ce+reg") for s in range(10)]
    context, found = found_against_base([*rows, *(record("ce+anchor", 0.5, seed=s) for s in range(3))])
    table = baseline_table(context, found)
    assert table is not None
    assert table.verdict == (
        "*: p (Holm) at most .05. n too small for any verdict on ce+anchor (n = 3): that takes 6 pairs for one "
        "comparison and 7 for 2 of them."
    )


class ParentOf:
    """An MLflow client that holds one run, a sweep's, and counts how often it is looked for."""

    def __init__(self, **tags: str) -> None:
        self.tags, self.asked = {f"laresa.{name}": text for name, text in tags.items()}, 0

    def search_runs(self, experiments: list[str], text: str, max_results: int) -> list[SimpleNamespace]:
        self.asked += 1
        return [SimpleNamespace(data=SimpleNamespace(tags=self.tags), info=SimpleNamespace(status="FINISHED"))]


def test_space_and_plan_are_read_once_from_the_sweeps_tags() -> None:
    space = json.dumps({name: distribution_to_json(distribution) for name, distribution in SPACE.items()})
    api = ParentOf(
        space=space,
        plan='{"trials": [60, 57], "GPU-hours": [1.5, 1.25]}',
        objectives='["val/loss"]',
        arms='["hace", "ce"]',
    )
    sweep = Sweep("hand", "http://nowhere", "1", api)
    assert sweep.space == SPACE
    assert sweep.plan == {"trials": (60, 57), "GPU-hours": (1.5, 1.25)}
    assert (sweep.objectives, sweep.arms, sweep.left, api.asked) == (("val/loss",), ("hace", "ce"), False, 1)
    bare = Sweep("hand", "http://nowhere", "1", ParentOf())
    assert (bare.space, bare.plan, bare.objectives, bare.arms) == (None, None, ("val/top1",), ())

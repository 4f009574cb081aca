"""Search space: conditional fields, checks, and a study that outlives its driver."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from laresa.config import SUBSETS, TrialConfig
from laresa.errors import ConfigError, StorageError
from sweeps.service.planning.estimate import read_journal
from sweeps.service.search import optuna_source
from sweeps.service.search.budget import choose
from sweeps.service.search.optuna_source import SAMPLERS, Interleaved, OptunaSource
from sweeps.service.search.sources import Source
from sweeps.service.search.space import as_params, check_space, default_space, parse_distribution, parse_space, suggest
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import Choice, PlannedTrial, Replicate, Search, Study

BASE = TrialConfig(epochs=2)


def search(**changes) -> Search:
    fields = {"name": "s", "base": BASE, "space": default_space(), "trials": 6, "replicate": Replicate(3, 1)}
    return Search(**{**fields, **changes})


def conclude(folder: SweepFolder, trial: PlannedTrial, value: float, state: str = "finished") -> dict:
    history = [{"epoch": 1, "metrics": {"val/top1": value / 2}, "seconds": 0.1, "timestamp": 1}]
    metrics = {"best/val/top1": value}
    folder.trial(trial.key).new_attempt().conclude({"state": state, "metrics": metrics, "history": history})
    return folder.trial(trial.key).outcome()


def test_a_field_is_asked_for_only_where_it_has_an_effect():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        trial = study.ask()
        config = suggest(trial, default_space(), BASE)
        asked = set(trial.params)
        seen.add(config.subset)
        assert ("triplet.margin" in asked) == ("triplet" in config.parts)
        assert ("weighting" in asked) == (config.subset != "ce")
        logits = {name.partition(".")[2] for name in asked if name.startswith("alpha_init.")}
        without = {"fixed": config.terms, "base_outside": ("ce",), None: ("ce",)}.get(config.weighting, ())
        assert logits == set(config.terms) - set(without)
        assert config.resolved.get("triplet.margin") == trial.params.get("triplet.margin")
        assert as_params(config, default_space()) == trial.params
    assert seen == set(SUBSETS)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rate": FloatDistribution(0, 1)}, "unknown field 'learning_rate'"),
        ({"lr": FloatDistribution(-1.0, 1.0)}, r"lr=-1.0: expected greater than 0"),
        ({"lr": CategoricalDistribution(["fast"])}, r"lr='fast': expected a valid number"),
        ({"subset": CategoricalDistribution(["ce", "ce+ancor"])}, "did you mean 'anchor'"),
        ({"alpha_init": FloatDistribution(0, 1)}, r"'alpha_init' is several numbers: .*as alpha_init\.TERM"),
        ({"alpha_init.anchr": FloatDistribution(0, 1)}, r"unknown field 'alpha_init\.anchr'"),
        ({"anchor.beta": FloatDistribution(0, 1)}, r"several numbers: .*as anchor\.beta\.0"),
        ({"margin": FloatDistribution(0.1, 1)}, r"expected the full name 'triplet\.margin'"),
        ({"seed": IntDistribution(0, 9)}, "is a replicate's, not a search dimension"),
    ],
)
def test_a_space_that_fits_no_field_is_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        check_space(space, BASE)


def test_distributions_on_the_command_line():
    assert parse_distribution("lr", "1e-4:1e-2:log") == FloatDistribution(1e-4, 1e-2, log=True)
    assert parse_distribution("batch_size", "16:128:int") == IntDistribution(16, 128)
    assert parse_distribution("weighting", "softmax,floor") == CategoricalDistribution(["softmax", "floor"])
    with pytest.raises(ConfigError, match=r"--space lr=1:x: .*expected LOW:HIGH"):
        parse_distribution("lr", "1:x")


def take(source: Source, count: int) -> list[PlannedTrial]:
    return [trial for _ in range(count) if (group := source.next()) is not None for trial in group.trials]


def test_the_same_seed_suggests_the_same_and_another_differs(tmp_path: Path):
    def suggested(name: str, seed: int) -> list[str]:
        (tmp_path / name).mkdir()
        folder = SweepFolder(tmp_path / name)
        source, signatures = OptunaSource(search(seed=seed, trials=14), folder), []
        while trials := take(source, 1):
            (trial,) = trials
            signatures.append(trial.signature)
            source.concluded(trial, conclude(folder, trial, len(signatures) / 20))
        return signatures

    assert suggested("a", 0) == suggested("b", 0) != suggested("c", 1)


def test_the_papers_settings_come_first_and_the_replicate_is_the_searchs(tmp_path: Path):
    full, alone = BASE.replace(subset=SUBSETS[-1]), BASE.replace(subset="ce")
    space = {**default_space(), "lr": FloatDistribution(1e-4, 1e-2, log=True)}
    source = OptunaSource(search(space=space, first=(full, alone)), SweepFolder(tmp_path))
    first, second = take(source, 2)
    assert first.config == full.replace(seed=3, fold=1)
    assert second.config == alone.replace(seed=3, fold=1)
    assert first.role == "search"


@pytest.mark.parametrize("ranged", ["1e-6:1e-2:log", "0.001,0.01"])
def test_a_first_configuration_outside_the_axis_is_asked_for_the_rest(tmp_path: Path, ranged: str):
    space = dict(parse_space(said) for said in (f"weight_decay={ranged}", "lr=1e-4:1e-2:log"))
    first = BASE.replace(lr=0.005, weight_decay=0.0)
    source = OptunaSource(search(space=space, first=(first,)), SweepFolder(tmp_path))
    (asked,) = take(source, 1)
    assert asked.config.lr == 0.005
    assert asked.config.weight_decay >= 1e-6


def test_a_study_goes_on_after_its_driver_died(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    source = OptunaSource(search(), folder)
    done, pruned, failed, running, finished_unseen = take(source, 5)
    source.concluded(done, conclude(folder, done, 0.9))
    source.concluded(pruned, conclude(folder, pruned, 0.2, "pruned"))
    source.concluded(failed, conclude(folder, failed, 0.0, "failed"))
    conclude(folder, finished_unseen, 0.5)  # the driver died before it could tell
    source.study.ask()  # ... and between asking and noting
    (tmp_path / "optuna.journal.lock").write_text("")

    again = OptunaSource(search(), folder)
    states = [trial.state for trial in again.study.trials]
    assert states == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.COMPLETE,
        TrialState.FAIL,
    ]
    assert again.study.trials[1].intermediate_values == {1: 0.1}
    assert take(again, 1) == [running]  # the same trial, not another
    (sixth,) = take(again, 2)
    assert again.finished
    assert choose(again.study, again.search) == Choice(done.config, "finished")
    assert {trial.signature for trial in again.planned()} >= {running.signature, sixth.signature, done.signature}

    extended = OptunaSource(search(trials=8), folder)  # --trials 8 later
    assert len(take(extended, 9)) == 2 + 2  # what ran goes on, two more are asked
    assert extended.finished


def test_a_half_written_line_is_cut_and_the_study_goes_on(tmp_path: Path):
    journal, folder = tmp_path / "optuna.journal", SweepFolder(tmp_path)
    first = take(OptunaSource(search(), folder), 2)[0]
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_id": "x", "study_')  # the power went
    again = OptunaSource(search(), folder)
    assert take(again, 1) == [first]
    assert len(take(again, 9)) == 5
    assert all(line.startswith("{") and line.endswith("}") for line in journal.read_text().splitlines())


def test_damage_in_the_middle_is_named(tmp_path: Path):
    journal = tmp_path / "optuna.journal"
    take(OptunaSource(search(), SweepFolder(tmp_path)), 3)
    lines = journal.read_text().splitlines()
    for broken in ([*lines[:2], "garbage", *lines[2:]], ["{}", *lines]):
        journal.write_text("\n".join(broken) + "\n")
        with pytest.raises(StorageError, match=r"optuna.journal is damaged"):
            OptunaSource(search(), SweepFolder(tmp_path))


def test_several_searches_take_turns_within_one_journal(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    both = [OptunaSource(search(name=name, trials=2), folder) for name in ("a", "b")]
    turns = Interleaved(both)
    assert [trial.arm for trial in take(turns, 5)] == ["a", "b", "a", "b"]
    assert turns.finished
    assert Interleaved(both, seconds=-1).finished


def tell(folder: SweepFolder, source: OptunaSource, trial: PlannedTrial, epochs: int, state: str = "pruned") -> None:
    history = [
        {"epoch": epoch, "metrics": {"val/top1": 0.1 * epochs}, "seconds": 0.1, "timestamp": 1}
        for epoch in range(1, epochs + 1)
    ]
    outcome = {"state": state, "metrics": {"best/val/top1": 0.1 * epochs}, "history": history}
    folder.trial(trial.key).new_attempt().conclude(outcome)
    source.concluded(trial, outcome)


def by_epochs(**changes) -> Search:
    """Three trials' worth of four epochs."""
    space = {"lr": FloatDistribution(1e-4, 1e-2, log=True)}
    return search(**{"base": BASE.replace(epochs=4), "space": space, "trials": 3, "by_epochs": True, **changes})


def test_a_budget_of_epochs_is_spent_on_as_many_trials_as_fit(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    source = OptunaSource(by_epochs(), folder)
    first = take(source, 9)
    assert len(first) == 3  # what runs is taken at its full length
    assert not source.finished  # it may need less
    tell(folder, source, first[0], 1)
    assert take(source, 1) == []  # 1 + 4 + 4, and 4 more are too many
    tell(folder, source, first[1], 1)
    (fourth,) = take(source, 9)  # 1 + 1 + 4 + 4
    tell(folder, source, first[2], 4, "finished")
    assert (source.spent.told, source.spent.epochs, source.spent.reserved) == (3, 6, 10)

    again = OptunaSource(by_epochs(), folder)  # the driver died
    assert take(again, 9) == [fourth]
    tell(folder, again, fourth, 1, "failed")  # counts as a whole one
    assert again.spent.epochs == 10
    assert again.finished
    assert again.spent.line(again.search) == "4 trials, 10 of 12 epochs"
    assert again.spent.left(again.search) == 2
    extended = OptunaSource(by_epochs(trials=4), folder)  # --tune 4 later
    assert len(take(extended, 9)) == 1


def test_suggestions_that_all_fail_come_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> TrialConfig:
        raise ConfigError("no")

    monkeypatch.setattr(optuna_source, "suggest", refuse)
    for number, budget in enumerate((by_epochs(), search())):
        (tmp_path / str(number)).mkdir()
        source = OptunaSource(budget, SweepFolder(tmp_path / str(number)))
        assert take(source, 1) == []
        assert (source.finished, source.spent.told, source.spent.refused) == (True, 0, budget.trials)


def test_what_a_search_chose_of_what_finished_else_of_what_was_stopped_else_what_was_given(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    source = OptunaSource(by_epochs(trials=6, first=(BASE.replace(epochs=4, lr=0.005),)), folder)
    assert choose(source.study, source.search) == Choice(source.search.base, "given")
    a, b, c, d = take(source, 4)
    tell(folder, source, a, 4, "failed")
    assert choose(source.study, source.search).how == "given"
    tell(folder, source, b, 3)
    tell(folder, source, c, 1)
    assert choose(source.study, source.search) == Choice(b.config, "pruned")
    tell(folder, source, d, 2, "finished")
    assert choose(source.study, source.search) == Choice(d.config, "finished")
    assert read_journal(Study("s", (), (), (source.search,)), folder)["s"].choice == Choice(d.config, "finished")


def test_a_grid_that_is_used_up_ends_its_search(tmp_path: Path):
    folder, space = SweepFolder(tmp_path), {"batch_size": CategoricalDistribution([16, 32])}
    for _ in range(2):  # and when it is run again
        source = OptunaSource(search(sampler="grid", space=space, trials=9), folder)
        while trials := take(source, 1):
            tell(folder, source, trials[0], 1, "finished")
        assert len(source.planned()) == 2


def test_epochs_are_no_dimension_of_a_search_that_counts_them(tmp_path: Path):
    with pytest.raises(ConfigError, match="--space epochs: the budget is counted in epochs"):
        OptunaSource(by_epochs(space={"epochs": IntDistribution(2, 4)}), SweepFolder(tmp_path))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_suggests(name: str, tmp_path: Path):
    space = {"subset": CategoricalDistribution(["ce", "ce+reg"]), "batch_size": CategoricalDistribution([16, 32])}
    source = OptunaSource(search(sampler=name, space=space, trials=3), SweepFolder(tmp_path))
    for trial in take(source, 3):
        source.concluded(trial, conclude(SweepFolder(tmp_path), trial, 0.5))
    assert source.spent.told == 3


def test_bad_searches_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="--trials 0"):
        OptunaSource(search(trials=0), SweepFolder(tmp_path))
    with pytest.raises(ConfigError, match="unknown sampler 'tpee'; did you mean 'tpe'"):
        OptunaSource(search(sampler="tpee"), SweepFolder(tmp_path))
    (tmp_path / "optuna.journal").write_text("no journal at all\n")
    with pytest.raises(StorageError, match=r"optuna.journal is damaged"):
        OptunaSource(search(), SweepFolder(tmp_path))

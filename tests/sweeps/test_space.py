"""Search space: conditional fields, checks, and a study that outlives its driver."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from laresa.config import SUBSETS, TrialConfig
from laresa.errors import ConfigError
from sweeps.service.search.sources import SAMPLERS, Interleaved, OptunaSource, best_config
from sweeps.service.search.space import as_params, check_space, default_space, parse_distribution, suggest
from sweeps.service.storage.files import StorageError, SweepFolder
from sweeps.service.study import PlannedTrial, Replicate, Search

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
        assert ("margin" in asked) == ("triplet" in config.parts)
        assert ("weighting" in asked) == (config.subset != "ce")
        logits = {name.partition("/")[2] for name in asked if name.startswith("alpha_init/")}
        expected = (
            set()
            if config.alpha_init is None
            else set(config.terms) - ({"ce"} if config.weighting == "ce_outside" else set())
        )
        assert logits == expected
        assert config.margin == trial.params.get("margin")
        assert as_params(config, default_space()) == trial.params
    assert seen == set(SUBSETS)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rate": FloatDistribution(0, 1)}, "unknown field 'learning_rate'"),
        ({"lr": FloatDistribution(-1.0, 1.0)}, r"lr=-1.0: expected a number > 0"),
        ({"lr": CategoricalDistribution(["fast"])}, r"lr='fast' is str"),
        ({"subset": CategoricalDistribution(["ce", "ce+ancor"])}, "did you mean 'anchor'"),
        ({"alpha_init": FloatDistribution(0, 1)}, "space: 'alpha_init'"),
        ({"alpha_init/anchr": FloatDistribution(0, 1)}, "did you mean 'alpha_init/anchor'"),
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


def take(source: OptunaSource, count: int) -> list[PlannedTrial]:
    return [trial for _ in range(count) if (trial := source.next()) is not None]


def test_the_same_seed_suggests_the_same_and_another_differs(tmp_path: Path):
    def suggested(name: str, seed: int) -> list[str]:
        (tmp_path / name).mkdir()
        folder = SweepFolder(tmp_path / name)
        source, signatures = OptunaSource(search(seed=seed, trials=14), folder), []
        while (trial := source.next()) is not None:
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
    assert again.next() == running  # the same trial, not another
    sixth = again.next()
    assert sixth is not None
    assert again.next() is None
    assert again.finished
    assert best_config(again) == done.config
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
    assert again.next() == first
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
    sources = [OptunaSource(search(name=name, trials=2), folder) for name in ("a", "b")]
    both = Interleaved(sources)
    assert [trial.arm for _ in range(5) if (trial := both.next()) is not None] == ["a", "b", "a", "b"]
    assert both.finished
    assert Interleaved(sources, seconds=-1).finished


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_suggests(name: str, tmp_path: Path):
    space = {"subset": CategoricalDistribution(["ce", "ce+reg"]), "batch_size": CategoricalDistribution([16, 32])}
    source = OptunaSource(search(sampler=name, space=space, trials=3), SweepFolder(tmp_path))
    for trial in take(source, 3):
        source.concluded(trial, conclude(SweepFolder(tmp_path), trial, 0.5))
    assert source.told == 3


def test_bad_searches_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="--trials 0"):
        OptunaSource(search(trials=0), SweepFolder(tmp_path))
    with pytest.raises(ConfigError, match="unknown sampler 'tpee'; did you mean 'tpe'"):
        OptunaSource(search(sampler="tpee"), SweepFolder(tmp_path))
    with pytest.raises(ConfigError, match="has no finished trial"):
        best_config(OptunaSource(search(), SweepFolder(tmp_path)))
    (tmp_path / "optuna.journal").write_text("no journal at all\n")
    with pytest.raises(StorageError, match=r"optuna.journal is damaged"):
        OptunaSource(search(), SweepFolder(tmp_path))

"""Does the search pay? Trials and epochs until TPE with ASHA has what the best of 60 random configurations had."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench.timing import row

SEEDS = range(5)
TRIALS = 60
EPOCHS = 3  # of the demo's 18: 600 trials are to end within a quarter of an hour of two cores
RIVALS = {"random": ["--sampler", "random", "--scheduler", "none"], "tpe+asha": ["--sampler", "tpe"]}


@dataclass(frozen=True)
class Reached:
    """After how many trials and epochs (pruned ones included) a search had a score; None: not within its trials."""

    trials: int | None
    epochs: int


def pays() -> list[dict[str, object]]:
    """Both searches on emoji120, the same seeds and space; each pair's bar is the best of its random search."""
    found: dict[str, list[Reached]] = {name: [] for name in RIVALS}
    best: dict[str, list[float]] = {name: [] for name in RIVALS}
    for seed in SEEDS:
        scores = {name: _search([*options, "--search-seed", str(seed)]) for name, options in RIVALS.items()}
        bar = max(score for score, _ in scores["random"])
        for name, trials in scores.items():
            found[name].append(_reached(trials, bar))
            best[name].append(max(score for score, _ in trials))
        print(f"    seed {seed}: bar {bar:.3f}, {found['tpe+asha'][-1]}", flush=True)
    never = sum(reached.trials is None for reached in found["tpe+asha"])
    each = "; ".join(f"seed {s}: {r.trials or 'not reached'} trials, {r.epochs} epochs"
                     for s, r in zip(SEEDS, found["tpe+asha"], strict=True))  # fmt: skip
    note = (
        f"median over {len(SEEDS)} seeds, {TRIALS} trials of {EPOCHS} epochs; not reached in {never}. TPE+ASHA: {each}"
    )
    rows = []
    for unit in ("trials", "epochs"):
        ours, theirs = (_median(found[name], unit) for name in ("tpe+asha", "random"))
        rows.append(row(f"search: {unit} to the best of random {TRIALS}", ours, unit, theirs, ours / theirs, note))
    gained, drawn = (statistics.mean(best[name]) for name in ("tpe+asha", "random"))
    note = "mean over the seeds of the best validation top-1 after all trials. Baseline: random search"
    return [*rows, row(f"search: best of {TRIALS}", gained, "top-1", drawn, gained / drawn, note)]


def _search(options: list[str]) -> list[tuple[float, int]]:
    """(validation top-1, epochs) of each trial in the order asked; a pruned or failed one scores nothing.

    In a home of its own: a search would reuse what another one trained.
    """
    from sweeps import search
    from sweeps.options import run_options
    from sweeps.service.driver.runner import run
    from sweeps.service.search.optuna_source import open_study
    from sweeps.service.tracking.local_server import LocalServer

    parser = argparse.ArgumentParser()
    search.add_options(parser)
    args = parser.parse_args(["--sweep", "rival", "--trials", str(TRIALS), "--epochs", str(EPOCHS), *options])
    study = search.build(args)
    with tempfile.TemporaryDirectory() as home:
        os.environ["LARESA_HOME"] = home
        try:
            if run(study, run_options(args)).stopped:
                raise KeyboardInterrupt
            told = open_study(study.searches[0], Path(home) / "storage" / "rival").get_trials(deepcopy=False)
        finally:
            LocalServer().stop()
            del os.environ["LARESA_HOME"]
    asked = [trial for trial in told if "config" in trial.user_attrs]
    scores = [trial.value if trial.state.name == "COMPLETE" else 0.0 for trial in asked]
    return [(score, len(trial.intermediate_values)) for score, trial in zip(scores, asked, strict=True)]


def _reached(trials: list[tuple[float, int]], bar: float) -> Reached:
    epochs = 0
    for number, (score, spent) in enumerate(trials, start=1):
        epochs += spent
        if score >= bar:
            return Reached(number, epochs)
    return Reached(None, epochs)


def _median(found: list[Reached], unit: str) -> float:
    """One that never reached the bar counts as all its trials (and one more), or all its epochs."""
    if unit == "epochs":
        return statistics.median(reached.epochs for reached in found)
    return statistics.median(TRIALS + 1 if reached.trials is None else reached.trials for reached in found)

"""What a search has spent and what it chose, as its Optuna study tells: one arithmetic for asking, plan and progress.

On an Optuna trial lie "signature" and "config" once it is planned, "refused" where no configuration came of it, and
"epochs" once it is told: those of its result; a failed one counts as a whole one, so that failing can't go on for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laresa.config import TrialConfig
from sweeps.service.study import Choice, Search

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

CHOSEN_WORDS = {
    "finished": "the best that finished is taken",
    "pruned": "none of its trials finished, the best of those stopped early is taken",
    "given": "none of its trials was measured, the given settings are taken",
}


@dataclass(frozen=True)
class Spent:
    """asked, told: trials, told once they ended. epochs: of those told. reserved: with all that what runs may need.

    refused: suggestions that no configuration came of.
    """

    asked: int = 0
    told: int = 0
    refused: int = 0
    epochs: int = 0
    reserved: int = 0

    @property
    def running(self) -> int:
        return self.asked - self.told

    def room(self, search: Search) -> bool:
        """Whether the budget has one more trial of full length."""
        if search.by_epochs:
            return self.reserved + search.base.epochs <= search.epochs
        return self.asked + self.refused < search.trials

    def left(self, search: Search) -> int:
        """The most epochs it may still train; what runs is taken at its full length."""
        if search.by_epochs:
            return max(0, search.epochs - self.epochs)
        return max(0, search.trials - self.told - self.refused) * search.base.epochs

    def line(self, search: Search) -> str:
        """ "14 trials, 210 of 216 epochs": both numbers, and which of them is the budget."""
        if search.by_epochs:
            return f"{self.told} trials, {self.epochs} of {search.epochs} epochs"
        return f"{self.told} of {search.trials} trials, {self.epochs} epochs"


@dataclass(frozen=True)
class Searched:
    """What searches that count epochs have spent so far.

    trials: told. epochs: of them, of `budget`. left: epochs that may still be trained, those after the searches too.
    """

    trials: int
    epochs: int
    budget: int
    left: int


def spent(study: Study) -> Spent:
    trials = study.get_trials(deepcopy=False)
    asked, refused = [t for t in trials if "config" in t.user_attrs], [t for t in trials if "refused" in t.user_attrs]
    told = [trial for trial in asked if trial.state.is_finished()]
    epochs = sum(trial.user_attrs["epochs"] for trial in (*told, *refused))
    running = sum(trial.user_attrs["config"]["epochs"] for trial in asked if not trial.state.is_finished())
    return Spent(len(asked), len(told), len(refused), epochs, epochs + running)


def charged(outcome: Any, config: TrialConfig) -> int:
    """The epochs that a trial's outcome counts as."""
    return config.epochs if outcome["state"] == "failed" else len(outcome["history"])


def choose(study: Study, search: Search) -> Choice:
    """What a search with one objective ended with: see CHOSEN."""
    from optuna.trial import TrialState

    asked = [trial for trial in study.get_trials(deepcopy=False) if "config" in trial.user_attrs]
    if any(trial.state == TrialState.COMPLETE for trial in asked):
        return _choice(study.best_trial, "finished")
    stopped = [trial for trial in asked if trial.state == TrialState.PRUNED and trial.intermediate_values]
    if stopped:
        return _choice(max(stopped, key=lambda trial: max(trial.intermediate_values.values())), "pruned")
    return Choice(search.base, "given")


def ending(search: Search, spent: Spent, choice: Choice | None) -> str:
    """What a search spent and where its choice is from, in a line."""
    line = f"{search.name}: {spent.line(search)}"
    return f"{line}; {CHOSEN_WORDS[choice.how]}" if choice else line


def _choice(trial: FrozenTrial, how: str) -> Choice:
    return Choice(TrialConfig.from_dict(trial.user_attrs["config"]), how)

"""A search as Optuna knows it, rebuilt in memory from records, and the importance of its parameters."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial

from reports.candidates import VALIDATION, is_scored
from reports.formats import MISSING, Cell, Column, Rows, Table
from reports.select import value
from reports.tables import Row
from sweeps.service.search.space import as_params
from sweeps.service.tracking.records import TrialRecord

optuna.logging.set_verbosity(optuna.logging.WARNING)

Space = Mapping[str, BaseDistribution]
ENOUGH = 10  # finished trials under which a picture or an importance would show chance
STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
STOPPED = "stopped early"
TOP_SHARE = 0.25  # PED-ANOVA's own 0.1 would be one trial of ten
EVALUATORS: Mapping[str, Callable[[], BaseImportanceEvaluator]] = {
    "fANOVA": lambda: FanovaImportanceEvaluator(seed=0),
    "PED-ANOVA": lambda: PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE),
}


def rebuild(name: str, trials: Sequence[TrialRecord], space: Space) -> optuna.Study:
    """The study that these trials make, values in percent. What neither finished, was pruned nor failed is left out."""
    study = optuna.create_study(study_name=name, direction="maximize")
    study.add_trials([_frozen(trial, space) for trial in trials if trial.state in STATES])
    return study


def _frozen(trial: TrialRecord, space: Space) -> FrozenTrial:
    state = STATES[trial.state]
    if state == TrialState.COMPLETE and not is_scored(trial):
        state = TrialState.FAIL
    # A setting outside the space (the paper's own, asked first) can't stand on its axes: the trial lacks the parameter.
    params = {name: v for name, v in as_params(trial.config, space).items() if _contains(space[name], v)}
    by_epoch = {m.epoch: 100 * m.metrics.get("val/top1", math.nan) for m in trial.history}
    return create_trial(
        state=state,
        value=100 * value(trial, VALIDATION) if state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: space[name] for name in params},
        intermediate_values={epoch: number for epoch, number in by_epoch.items() if math.isfinite(number)},
    )


def _contains(distribution: BaseDistribution, setting: Any) -> bool:
    try:
        create_trial(value=0.0, params={"x": setting}, distributions={"x": distribution})
    except ValueError:
        return False
    return True


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def stopped(study: optuna.Study) -> list[FrozenTrial]:
    """Those that the scheduler stopped early and that were measured at all."""
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    return [trial for trial in pruned if trial.intermediate_values]


def with_stopped(study: optuna.Study) -> optuna.Study:
    """The study in which those stopped early count with the best that they reached, marked by a parameter of their own.

    The study itself where none was.
    """
    pruned = stopped(study)
    if not pruned:
        return study
    marked = CategoricalDistribution(("no", "yes"))
    whole = optuna.create_study(study_name=study.study_name, direction="maximize")
    for state, trials in (("no", finished(study)), ("yes", pruned)):
        for trial in trials:
            whole.add_trial(
                create_trial(
                    value=trial.value if state == "no" else max(trial.intermediate_values.values()),
                    params={**trial.params, STOPPED: state},
                    distributions={**trial.distributions, STOPPED: marked},
                )
            )
    return whole


def varied_params(study: optuna.Study, *, common: bool) -> list[str]:
    """The parameters with several values over the finished trials; common: only those that every one of them has."""
    trials = finished(study)
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    if common:
        names = {name: None for name in names if all(name in trial.params for trial in trials)}
    return [name for name in names if len({t.params[name] for t in trials if name in t.params}) > 1]


@dataclass(frozen=True)
class Scope:
    """Trials and parameters over which importance is asked. fANOVA can't take a parameter that some trials lack."""

    search: str
    title: str
    study: optuna.Study
    params: tuple[str, ...]
    evaluators: tuple[str, ...]


def scopes(name: str, trials: Sequence[TrialRecord], space: Space) -> list[Scope]:
    """All finished trials over what they have in common; where subsets differ, so that many lack a parameter, also over
    all parameters (PED-ANOVA alone can), and the commonest subset by itself.
    """
    scored = [trial for trial in trials if is_scored(trial)]
    subsets = Counter(trial.config.subset for trial in scored)
    groups = [(f"all {len(scored)} finished trials", scored)]
    if len(subsets) > 1:
        subset, count = subsets.most_common(1)[0]
        groups.append((f"the {count} with {subset}", [t for t in scored if t.config.subset == subset]))
    found = []
    for title, group in groups:
        if len(group) < ENOUGH or len({value(trial, VALIDATION) for trial in group}) == 1:
            continue
        study = rebuild(name, group, space)
        common, every = (tuple(varied_params(study, common=only)) for only in (True, False))
        found.append(Scope(name, f"{title}, what all have", study, common, tuple(EVALUATORS)))
        if len(subsets) > 1 and group is scored:
            found.append(Scope(name, f"{title}, conditional ones too", study, every, ("PED-ANOVA",)))
    return [scope for scope in found if len(scope.params) > 1]


def importances(scope: Scope) -> dict[str, dict[str, float]]:
    """evaluator -> parameter -> share of the importance; the shares of a scope sum to 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": the table's notes say so
        return {
            name: optuna.importance.get_param_importances(
                scope.study, evaluator=EVALUATORS[name](), params=list(scope.params)
            )
            for name in scope.evaluators
        }


def table(found: Sequence[Scope], named: bool) -> Table | None:
    """Both importances of every scope; named: say the search's name. None without a scope."""
    blocks = []
    for scope in found:
        shares = importances(scope)
        rows = [_row(name, shares) for name in next(iter(shares.values()))]
        title = f"{scope.search}: {scope.title}" if named else scope.title
        blocks.append(Rows(title, (scope.search, scope.title), tuple(rows)))
    columns = (Column("parameter", ("parameter",), "l"), *(Column(name, (key(name),)) for name in EVALUATORS))
    notes = (
        "Shares of each column within a block sum to 1. What all have: parameters that every trial of the block has; "
        "conditional ones too: also those that some trials lack, such as a term's own fields, which fANOVA can't take.",
        "fANOVA: share of the variance of validation top-1 that a forest attributes to the parameter alone; "
        f"PED-ANOVA: how far the best {TOP_SHARE:.0%} of the trials prefer some of its values.",
        f"No block where fewer than {ENOUGH} trials have finished. With some tens of trials the ranks are rough; "
        "where the two columns disagree, believe neither.",
    )
    title = "Importance of the parameters for validation top-1"
    return Table("importance", title, columns, tuple(blocks), notes, ("search", "trials")) if blocks else None


def _row(parameter: str, shares: Mapping[str, Mapping[str, float]]) -> Row:
    numbers = (shares.get(name, {}).get(parameter) for name in EVALUATORS)
    return (Cell(parameter, (parameter,)), *(Cell(MISSING if n is None else f"{n:.2f}", (n,)) for n in numbers))


def key(evaluator: str) -> str:
    return evaluator.lower().replace("-", "_")

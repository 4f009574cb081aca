"""A search in Optuna's own pictures, drawn for our objective."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from optuna.trial import TrialState, create_trial
from optuna.visualization import matplotlib as pictures

from laresa.measurement import better
from reports.candidates import by_search
from reports.figures import BLUE, GREY, PALETTE, Drawing, Look, legend
from reports.importance import (
    ENOUGH,
    EVALUATORS,
    Scope,
    Space,
    finished,
    key,
    rebuild,
    scopes,
    stopped,
    varied_params,
    with_stopped,
)
from reports.select import value
from sweeps.service.tracking.records import TrialRecord

MOST = len(PALETTE)  # searches with pictures
PANELS = 5  # of a slice plot
AXIS = "validation top-1 [%]"
# Optuna's blues without their ends, which are lost on a white and on a dark page.
TINTS = LinearSegmentedColormap.from_list("tints", colormaps["Blues"](np.linspace(0.35, 0.8, 64)))


def drawings(searched: Sequence[TrialRecord], space: Space, objectives: Sequence[str] = ("val/top1",)) -> list[Drawing]:
    """All pictures of one search; of several, one common history and two pictures each, for at most MOST of them.

    They show validation top-1; with several objectives their Pareto front comes first.
    """
    studies = {name: rebuild(name, trials, space) for name, trials in by_search(searched).items()}
    enough = {name: s for name, s in studies.items() if len(finished(s)) + len(stopped(s)) >= ENOUGH}
    drawn = dict(list(enough.items())[:MOST])
    first = _pareto(searched, objectives)
    if not drawn:
        return first
    several = len(studies) > 1
    found = [*first, _history(list(drawn.values()))]
    for number, (name, study) in enumerate(drawn.items(), start=1):
        stem, of = (f"search-{number}", f": {name}") if several else ("search", "")
        asked = scopes(name, by_search(searched)[name], space)
        found += _parallel(study, stem, of)
        found += _importance(asked, "fANOVA", stem, of)
        if not several:
            found += _importance(asked, "PED-ANOVA", stem, of)
            found += [*(_slices(study, stem) if len(finished(study)) >= ENOUGH else []), *_intermediate(study, stem)]
    return found


def too_few(searched: Sequence[TrialRecord], space: Space | None) -> list[str]:
    """Why pictures are missing, in words; nothing where none is."""
    if space is None:
        return ["The search space was not recorded with this sweep, so its pictures can't be drawn."]
    studies = {name: rebuild(name, trials, space) for name, trials in by_search(searched).items()}
    ended = {name: len(finished(study)) for name, study in studies.items()}
    counts = {name: count + len(stopped(studies[name])) for name, count in ended.items()}
    few = [f"{name} ({count})" for name, count in counts.items() if count < ENOUGH]
    said = [f"Too few measured trials for pictures, which take {ENOUGH}: {', '.join(few)}."] if few else []
    plain = [f"{name} ({ended[name]})" for name, count in counts.items() if count >= ENOUGH > ended[name]]
    said += [f"Too few finished trials for importance, which takes {ENOUGH}: {', '.join(plain)}."] if plain else []
    left = len(counts) - len(few) - MOST
    return [*said, f"Pictures of the first {MOST} searches; {left} more have none."] if left > 0 else said


def _plot(draw: Callable[[], Any], height: float, width: float = 10) -> Figure:
    """Optuna's picture as a figure of ours: it sets a style and pyplot's state, which must not outlive it."""
    # Constrained from the start, for a colour bar is placed by the layout that it finds.
    with mpl.rc_context({"figure.constrained_layout.use": True}), warnings.catch_warnings(), plt.ioff():
        warnings.simplefilter("ignore")  # experimental since Optuna 2.2; importance may be inaccurate
        first = np.ravel(np.asarray(draw(), dtype=object))[0]
        figure: Figure = first.figure
        plt.close(figure)
    figure.suptitle("")
    for shaded in figure.findobj():
        if isinstance(shaded, ScalarMappable) and shaded.get_array() is not None:
            shaded.set_cmap(TINTS)
    for ax in figure.axes:
        ax.set_title("", loc="left")
        ax.set_title("")
    figure.set_size_inches(width, height)
    figure.set_layout_engine("constrained")
    return figure


def _history(studies: Sequence[optuna.Study]) -> Drawing:
    figure = _plot(lambda: pictures.plot_optimization_history(list(studies), target_name=AXIS), 4)
    ax = figure.axes[0]
    if len(studies) > 1:
        if old := ax.get_legend():
            old.remove()
        # Optuna's ten colours come in pairs and run out at the sixth study; two collections a study: dots, infeasible.
        for index, (line, color) in enumerate(zip(ax.lines, PALETTE, strict=False)):
            line.set(color=color, alpha=1, linewidth=1.8)
            ax.collections[2 * index].set(color=color, alpha=0.4)
        names = [study.study_name for study in studies]
        legend(figure, {name: (color, "-") for name, color in zip(names, PALETTE, strict=False)}, columns=4)
    for index, study in enumerate(studies):
        early = [(trial.number, max(trial.intermediate_values.values())) for trial in stopped(study)]
        if early:
            color = GREY if len(studies) == 1 else PALETTE[index]
            label = "stopped early" if len(studies) == 1 else None
            numbers, best = zip(*early, strict=True)
            ax.scatter(numbers, best, marker="x", s=22, color=color, linewidths=1, label=label, zorder=1)
    if len(studies) == 1:
        ax.legend(loc="lower right")
    caption = (
        "A dot for every finished trial in the order of their start, the line their best so far; a cross for every one "
        "that the scheduler stopped early, at the best that it reached."
    )
    return Drawing("search-history", "Optimisation history", caption, "Validation top-1 by trial", figure)


def _pareto(searched: Sequence[TrialRecord], objectives: Sequence[str]) -> list[Drawing]:
    """Two or three objectives against each other, over all searches."""
    if len(objectives) not in (2, 3):
        return []
    study = optuna.create_study(directions=["minimize" if better(m) == "min" else "maximize" for m in objectives])
    for trial in searched:
        values = [value(trial, f"best/{metric}") for metric in objectives]
        if trial.state == "finished" and not any(map(math.isnan, values)):
            study.add_trial(create_trial(values=values))
    if not study.trials:
        return []
    figure = _plot(lambda: pictures.plot_pareto_front(study, target_names=list(objectives)), 5, 7)
    caption = "A dot for every finished trial, measured on validation; the front apart."
    return [Drawing("search-pareto", "Pareto front", caption, f"{' against '.join(objectives)}", figure)]


def _parallel(study: optuna.Study, stem: str, of: str) -> list[Drawing]:
    study = with_stopped(study)
    params = varied_params(study, common=False)
    if not params:
        return []
    figure = _plot(lambda: pictures.plot_parallel_coordinate(study, params=params, target_name=AXIS), 6, 15)
    for ax in figure.axes[1:-1]:
        ax.tick_params(labelsize=7.5)  # names of subsets reach to the next axis
    caption = (
        "A line for every trial, dark where validation top-1 is high; one that was stopped early (marked on an axis "
        "of its own) with the best that it reached. "
        "None: the parameter has no effect in that trial or lies outside the space."
    )
    return [Drawing(f"{stem}-parallel", f"Parallel coordinates{of}", caption, "Lines across parameters", figure)]


def _importance(asked: Sequence[Scope], evaluator: str, stem: str, of: str) -> list[Drawing]:
    """The evaluator's picture of the scope with the most parameters that it can take."""
    scope = max(
        (scope for scope in asked if evaluator in scope.evaluators), key=lambda scope: len(scope.params), default=None
    )
    if scope is None:
        return []
    made, params = EVALUATORS[evaluator](), list(scope.params)
    figure = _plot(
        lambda: pictures.plot_param_importances(scope.study, evaluator=made, params=params, target_name=AXIS),
        0.35 * len(params) + 1.3,
    )
    if old := figure.axes[0].get_legend():
        old.remove()
    caption = f"Importance for validation top-1 by {evaluator}. Over {scope.title}."
    name, title = f"{stem}-importance-{key(evaluator)}", f"Importance by {evaluator}{of}"
    return [Drawing(name, title, caption, f"Bars of importance by {evaluator}", figure)]


def _slices(study: optuna.Study, stem: str) -> list[Drawing]:
    """Validation against each parameter, at most PANELS of them in a picture."""
    params = varied_params(study, common=False)
    parts = [params[start : start + PANELS] for start in range(0, len(params), PANELS)]
    found = []
    for number, part in enumerate(parts, start=1):
        figure = _plot(lambda part=part: pictures.plot_slice(study, params=part, target_name=AXIS), 3.6)  # type: ignore[misc]
        for ax in figure.axes[: len(part)]:
            ax.tick_params(axis="x", labelrotation=90)  # subsets are long
        name, of = (
            (f"{stem}-slice-{number}", f" ({number} of {len(parts)})") if len(parts) > 1 else (f"{stem}-slice", "")
        )
        caption = "A dot for every finished trial that has the parameter; the darker, the later it started."
        found.append(Drawing(name, f"Slices{of}", caption, "Validation top-1 against each parameter", figure))
    return found


def _intermediate(study: optuna.Study, stem: str) -> list[Drawing]:
    """Validation by epoch; pruned trials grey. None where no trial has a history."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    pruned = {f"Trial{trial.number}" for trial in trials if trial.state == TrialState.PRUNED}
    if not any(trial.intermediate_values for trial in trials):
        return []
    figure = _plot(lambda: pictures.plot_intermediate_values(study), 4)
    ax = figure.axes[0]
    if old := ax.get_legend():
        old.remove()
    for line in ax.lines:
        grey = line.get_label() in pruned
        line.set(color=GREY if grey else BLUE, linewidth=0.9, marker="", zorder=1 if grey else 2)
    ax.set(xlabel="epoch", ylabel=AXIS)
    looks: dict[str, Look] = {"finished": (BLUE, "-"), **({"pruned": (GREY, "-")} if pruned else {})}
    legend(figure, looks)
    caption = "Validation top-1 over the epochs of every trial; grey: stopped early by the scheduler."
    return [Drawing(f"{stem}-intermediate", "Intermediate values", caption, "Validation top-1 by epoch", figure)]

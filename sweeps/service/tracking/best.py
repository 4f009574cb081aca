"""Which trials were best: by one metric, or by several, where a Pareto front answers. Only MLflow is touched."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from laresa.errors import ConfigError, nearest
from laresa.measurement import better
from sweeps.service.tracking.client import trial_page
from sweeps.service.tracking.records import TrialRecord, conditions_of, field_value, record_from
from sweeps.service.tracking.sweep import Sweep


def best_n(
    sweep: str,
    metric: str = "val/top1",
    *,
    n: int = 1,
    by: str | None = None,
    where: Mapping[str, Any] | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
) -> list[TrialRecord]:
    """The n best finished trials; with `by`, the n best of each value of that field.

    Where arms were tuned and then compared, the trials of the comparison are ranked; where={"role": "search"} ranks
    those that tuned. A validation metric counts at the epoch best on validation top-1, not at the last one. mode: "max"
    or "min"; None:
    as the metric is meant, small for losses and distances of mistakes.
    ConfigError: no such sweep, none finished, or none has the metric.
    """
    return best_of(Sweep.open(sweep, tracking_uri), metric, n=n, by=by, where=where, mode=mode)


def best_of(
    sweep: Sweep,
    metric: str,
    *,
    n: int = 1,
    by: str | None = None,
    where: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> list[TrialRecord]:
    """As best_n, of a sweep that is open."""
    mode, name = mode or better(metric), _stored(metric)
    if n < 1 or mode not in ("max", "min"):
        raise ConfigError(f"n={n}, mode={mode!r}: expected n >= 1 and mode 'max' or 'min'")
    asked = {**(where or {}), "state": "finished"}
    found: list[Any] = []
    for finished in [asked] if "role" in asked else [{**asked, "role": "evidence"}, asked]:
        conditions = conditions_of(finished, sweep.param_names)
        found = found or (list(sweep.runs(finished)) if by else _top(sweep, conditions, name, n, mode))
    scored = _scored([record_from(sweep.name, run) for run in found], sweep.name, [metric])
    scored.sort(key=lambda record: record.metrics[name], reverse=mode == "max")
    return [record for group in _groups(scored, by) for record in group[:n]]


def best(sweep: str, metric: str = "val/top1", **options: Any) -> TrialRecord:
    """The best finished trial of a sweep (options as in best_n)."""
    return best_n(sweep, metric, n=1, **options)[0]


def pareto(
    sweep: str,
    metrics: Sequence[str] | None = None,
    *,
    by: str | None = None,
    where: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
) -> list[TrialRecord]:
    """The finished trials than which none is better in one of the metrics and as good in the others: the Pareto front.

    Best in the first metric first; equals all stay. metrics: as in best_n; None: what the sweep's search looked for.
    by: a front for each value of that field. ConfigError as best_n.
    """
    return pareto_of(Sweep.open(sweep, tracking_uri), metrics, by=by, where=where)


def pareto_of(
    sweep: Sweep,
    metrics: Sequence[str] | None = None,
    *,
    by: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> list[TrialRecord]:
    """As pareto, of a sweep that is open."""
    metrics = sweep.objectives if metrics is None else metrics
    if not metrics or len(set(metrics)) < len(metrics):
        raise ConfigError(f"metrics {list(metrics)}: expected one or more, each once")
    found = sweep.runs({**(where or {}), "state": "finished"})
    scored = _scored([record_from(sweep.name, run) for run in found], sweep.name, metrics)
    return [record for group in _groups(scored, by) for record in front(group, metrics)]


def front(records: Sequence[TrialRecord], metrics: Sequence[str]) -> list[TrialRecord]:
    """Those of the records that none of the others dominates, best in the first metric first. Each has the metrics."""
    import numpy as np

    signs = [1.0 if better(metric) == "max" else -1.0 for metric in metrics]
    scores_NM = np.array([[r.metrics[_stored(m)] for m in metrics] for r in records]).reshape(-1, len(metrics)) * signs
    kept = [
        index for index, row in enumerate(scores_NM) if not ((scores_NM >= row).all(1) & (scores_NM > row).any(1)).any()
    ]
    return [records[index] for index in sorted(kept, key=lambda index: tuple(-scores_NM[index]))]


def _stored(metric: str) -> str:
    """The name under which a trial keeps what it has to say in the end."""
    return f"best/{metric}" if metric.startswith("val/") else metric


def _scored(finished: list[TrialRecord], sweep: str, metrics: Sequence[str]) -> list[TrialRecord]:
    """Those that have all the metrics. ConfigError where there is none."""
    if not finished:
        raise ConfigError(
            f"sweep {sweep!r} has no finished trial that fits: `laresa status {sweep}` shows what there is"
        )
    for metric in metrics:
        finished, before = [r for r in finished if not math.isnan(r.metrics.get(_stored(metric), math.nan))], finished
        if not finished:
            known = {m.removeprefix("best/") for record in before for m in record.metrics}
            raise ConfigError(f"no finished trial of {sweep!r} has the metric {metric!r}{nearest(metric, known)}")
    return finished


def _groups(records: Sequence[TrialRecord], by: str | None) -> Iterable[list[TrialRecord]]:
    """The records by the value of a field, in the order in which the values appear."""
    groups: dict[Hashable, list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(field_value(record, by) if by else None, []).append(record)
    if by and set(groups) <= {None}:
        known = {name for record in records for name in record.config.resolved}
        raise ConfigError(f"by: unknown field {by!r}{nearest(by, {*known, 'arm', 'state'})}")
    return groups.values()


def _top(sweep: Sweep, conditions: Sequence[str], metric: str, n: int, mode: str) -> list[Any]:
    """Runs among which the n best by `metric` are: a page raises the bar for the next, until few are above it.

    MLflow can order by a metric itself, but that takes seconds in an experiment of thousands of runs.
    """
    size, bar = max(100, n), list[str]()
    while True:
        rows = trial_page(sweep.api, [sweep.experiment_id], *conditions, *bar, newest_first=True, size=size)
        values = [run.data.metrics[metric] for run in rows if not math.isnan(run.data.metrics.get(metric, math.nan))]
        if not rows.token or not values:
            return list(rows)
        edge = sorted(values, reverse=mode == "max")[: min(n, len(values))][-1]
        bar = [f"metrics.`{metric}` {'>=' if mode == 'max' else '<='} {edge!r}"]
        size = min(2 * size, 50_000)

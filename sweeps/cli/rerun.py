"""`laresa rerun`: the same configuration once more, held against its record, epoch by epoch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from laresa.errors import ConfigError, DataError
from laresa.measurement import Measurement
from sweeps.cli.show import add_json, say, show_json
from sweeps.cli.studies import add_plugin_option
from sweeps.service.tracking.records import TrialRecord, record_of
from sweeps.service.tracking.sweep import Sweep

TOLERANCE = 1e-3
VERSIONS = ("git_commit", "code", "version.torch", "version.timm", "version.python")


def add(verbs: Any) -> None:
    verb = verbs.add_parser("rerun", help="the same trial again: equal to the bit, within a tolerance, or different?")
    verb.add_argument("run_id", metavar="RUN_ID", help="of a trial, as MLflow and `laresa status --json` show it")
    verb.add_argument("--tolerance", type=_positive, default=TOLERANCE, metavar="T", help=f"default: {TOLERANCE:g}")
    verb.add_argument("--tracking-uri", metavar="URI", help="MLflow server (default: MLFLOW_TRACKING_URI, else local)")
    add_json(verb, "one comparison")
    add_plugin_option(verb)
    verb.set_defaults(handler=_rerun)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value


def _rerun(args: argparse.Namespace) -> int:
    comparison = rerun(args.run_id, tracking_uri=args.tracking_uri, tolerance=args.tolerance)
    if args.json:
        show_json([comparison.to_dict()])
    else:
        say("\n".join(comparison.lines()))
    return 1 if comparison.verdict == "different" else 0


# ---------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class Difference:
    """Where two runs disagree. epoch None: measured once, at the end. A value is None where that run has none."""

    epoch: int | None
    metric: str
    then: float | None
    now: float | None

    @property
    def size(self) -> float:
        """|then - now|, relative to the greater of the two and 1; infinite where one is missing or not finite."""
        if self.then is None or self.now is None or not math.isfinite(self.then - self.now):
            return math.inf
        return abs(self.then - self.now) / max(1.0, abs(self.then), abs(self.now))

    def __str__(self) -> str:
        place = "at the end" if self.epoch is None else f"in epoch {self.epoch}"
        return f"{self.metric} {place}: {self.then!r} then, {self.now!r} now"


@dataclass(frozen=True)
class Comparison:
    """A record beside its rerun.

    first: the first difference of all. first_beyond: the first one greater than the tolerance.
    conditions: name -> (then, now): code versions, device, threads.
    """

    run_id: str
    epochs: int
    tolerance: float
    first: Difference | None
    first_beyond: Difference | None
    largest: float
    conditions: Mapping[str, tuple[str, str]]

    @property
    def verdict(self) -> str:
        if self.first is None:
            return "equal to the bit"
        return "equal within the tolerance" if self.first_beyond is None else "different"

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **asdict(self)}

    def lines(self) -> list[str]:
        """What a terminal shows."""
        found = [f"{self.run_id}: {self.verdict} over {self.epochs} epochs"]
        if self.first is not None:
            found += [
                f"  first difference  {self.first}",
                f"  tolerance         {self.tolerance:g} relative (absolute below 1); largest {self.largest:.3g}",
            ]
        if self.first_beyond is not None:
            found.append(f"  first beyond it   {self.first_beyond}")
        for name, (then, now) in self.conditions.items():
            found.append(f"  {name:17s} {then}" + ("" if then == now else f" then, {now} now"))
        return found


def rerun(run_id: str, *, tracking_uri: str | None = None, tolerance: float = TOLERANCE) -> Comparison:
    """Train a record's configuration again in this process, with as many threads, and compare all it measured.

    A trial that was pruned or failed is compared over the epochs it has. ConfigError: no such run, or it measured
    nothing; DataError: its data set is another one now.
    """
    from laresa import seeds
    from laresa.data import load

    record = record_of(run_id, tracking_uri=tracking_uri)
    if not record.history:
        raise ConfigError(f"run {run_id} is {record.state} and has no epoch to compare: choose one that finished")
    _check_components(record, tracking_uri)
    dataset = load(record.config)
    known = record.provenance.get("data_fingerprint", dataset.fingerprint)
    if dataset.fingerprint != known:
        raise DataError(
            f"data set {record.config.dataset!r} has fingerprint {dataset.fingerprint}, run {run_id} was trained on "
            f"{known}: bring the pictures back to what they were, else there is nothing to compare"
        )
    threads, device = int(record.provenance.get("threads", "1")), _device(record)
    with seeds.threads(threads):
        history, metrics = _train_again(record, dataset, device)
    found = list(differences(record, history, metrics))
    return Comparison(
        run_id=run_id,
        epochs=len(record.history),
        tolerance=tolerance,
        first=found[0] if found else None,
        first_beyond=next((difference for difference in found if difference.size > tolerance), None),
        largest=max((difference.size for difference in found), default=0.0),
        conditions=_conditions(record, threads, device),
    )


def _check_components(record: TrialRecord, tracking_uri: str | None) -> None:
    """ConfigError where a component that the record names is not at hand, with the plugins that its sweep had."""
    try:
        record.config.checked().signature()
    except ConfigError as error:
        kept = Sweep.open(record.sweep, tracking_uri).plugins
        lacks = [f"{name} (sha256 {digest[:12]}…)" for name, digest in kept.items()]
        advice = f"its sweep was run with {', '.join(lacks)}: give --plugin; sources lie with the sweep's run in MLflow"
        raise ConfigError(
            f"run {record.run_id} can't be trained again: {error}" + (f"; {advice}" if kept else "")
        ) from error


def differences(
    record: TrialRecord, history: Sequence[Measurement], metrics: Mapping[str, float]
) -> Iterator[Difference]:
    """Every metric that is not the same to the bit, in the order it was measured; durations don't count."""
    for then, now in zip(record.history, history, strict=False):
        yield from _unequal(then.epoch, then.metrics, now.metrics)
    if len(record.history) != len(history):
        yield Difference(None, "epochs", float(len(record.history)), float(len(history)))
    if record.state == "finished":
        measured = {name for row in record.history for name in row.metrics} | {"seconds/epoch"}
        then_end = {name: value for name, value in record.metrics.items() if name not in measured}
        yield from _unequal(None, then_end, metrics)


def _unequal(epoch: int | None, then: Mapping[str, float], now: Mapping[str, float]) -> Iterator[Difference]:
    for name in dict.fromkeys([*then, *now]):
        a, b = then.get(name), now.get(name)
        both_nan = a is not None and b is not None and math.isnan(a) and math.isnan(b)
        if a != b and not both_nan and not name.startswith(("seconds/", "energy/")):
            yield Difference(epoch, name, a, b)


def _train_again(record: TrialRecord, dataset: Any, device: str) -> tuple[list[Measurement], Mapping[str, float]]:
    """(history, final metrics) of the whole trial, or of as many epochs as an unfinished one measured."""
    from laresa.training import train

    steps = train(record.config, dataset=dataset, device=device)
    history: list[Measurement] = []
    while record.state == "finished" or len(history) < len(record.history):
        try:
            history.append(next(steps))
        except StopIteration as end:
            return history, end.value.metrics
    return history, {}


def _device(record: TrialRecord) -> str:
    """The kind of device the record was trained on if there is one here, else the CPU."""
    import torch

    return "cuda" if record.provenance.get("device", "cpu").startswith("cuda") and torch.cuda.is_available() else "cpu"


def _conditions(record: TrialRecord, threads: int, device: str) -> dict[str, tuple[str, str]]:
    from sweeps.service.provenance import code_of, provenance_tags

    present = {name.removeprefix("laresa."): value for name, value in provenance_tags().items()}
    present["code"] = code_of(record.config).digest
    then = {name: record.provenance.get(name, "not recorded") for name in (*VERSIONS, "device", "threads")}
    now = {**{name: present[name] for name in VERSIONS}, "device": device, "threads": str(threads)}
    return {name: (then[name], now[name]) for name in then}

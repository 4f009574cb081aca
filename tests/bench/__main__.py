"""make bench: every claim of speed and memory, measured side by side. `python -m tests.bench NAME...` picks some.

`load=60` is one with its number, which only it has: seconds.

Prints a table and writes build/bench.json: a list of {name, value, unit, baseline, ratio, note}; machine and versions
stand in the note of the first row.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import (
    data,
    features,
    heads,
    hosts,
    kills,
    load,
    metrics,
    networks,
    objective,
    search,
    server,
    service,
    statistics,
    sweep,
    sync,
    tracking,
)

BENCHES = {
    "data": data.augmentation,
    "labels": data.labels,
    "epoch": data.epoch,
    "pixels": data.pixels,
    "latents": metrics.latents,
    "objective": objective.step,
    "hace": objective.hace,
    "heads": heads.gemm_share,
    "small_heads": heads.small_heads,
    "heads_memory": heads.memory,
    "heads_trials": heads.against_trials,
    "networks": networks.together,
    "features": features.extraction,
    "float16": features.float16,
    "memory": sweep.memory,
    "tracking": tracking.tracking,
    "query": service.query,
    "driver": service.driver,
    "demo": sweep.efficiency,
    "plain": sweep.against_plain_parts,
    "accuracy": sweep.accuracy,
    "server": server.rates,
    "load": load.load,
    "hosts": hosts.two_against_one,
    "kills": kills.ten_moments,
    "sync": sync.epochs,
    "search": search.pays,
    "statistics": statistics.simulations,
}


def main(names: list[str]) -> int:
    asked = [name.partition("=")[::2] for name in names or BENCHES]
    unknown = {name for name, _ in asked} - set(BENCHES)
    if unknown:
        print(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    rows, out = [machine()], Path("build/bench.json")
    out.parent.mkdir(exist_ok=True)
    for name, number in asked:
        print(f"... {name}", file=sys.stderr, flush=True)
        before = dict(os.environ)  # MLflow notes in it where it last wrote, which is no other benchmark's affair
        rows += BENCHES[name](*([float(number)] if number else []))
        os.environ.clear()
        os.environ.update(before)
        out.write_text(json.dumps(rows, indent=1))  # what follows may fail
    show(rows)
    return 0


def machine() -> dict[str, object]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "ray", "mlflow", "optuna", "timm"))
    load = os.getloadavg()[0]
    note = (
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {versions}; load {load:.1f}"
    )
    return {"name": "machine", "value": os.cpu_count(), "unit": "cores", "baseline": None, "ratio": None, "note": note}


def show(rows: list[dict[str, object]]) -> None:
    table = Table("name", "value", "unit", "baseline", "ratio", "note")
    for row in rows:
        numbers = ["" if row[k] is None else f"{row[k]:.4g}" for k in ("value", "baseline", "ratio")]
        table.add_row(str(row["name"]), numbers[0], str(row["unit"]), numbers[1], numbers[2], str(row["note"]))
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

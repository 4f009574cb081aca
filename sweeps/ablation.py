"""Which part of LARESA helps, by how much, and is it luck? The eight loss subsets, and three variants of the full one.

Primary are two contrasts: does the full objective beat cross-entropy, and does the meaning of the class names matter,
true against shuffled labels. Each arm is first tuned by a search of its own, all on one budget; then what they chose
runs on every replicate.

python sweeps/ablation.py --dataset cifar100 --backbone resnet50
ray submit cluster.yaml sweeps/ablation.py --dataset cifar100
laresa run ablation ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from laresa.config import SUBSETS, TrialConfig
from sweeps.comparison import TUNE, add_comparison_options, compared, settings, subsets
from sweeps.options import base_config, set_fields
from sweeps.service.study import Cell, Study

__all__ = ["CONTROL", "EQUAL", "FULL", "PRIMARY", "READINGS", "TUNE", "add_options", "build", "settings"]

FULL = SUBSETS[-1]
CONTROL = "shuffled labels"  # permuted label embeddings: what is left of a gain is regularisation, not meaning
EQUAL = "equal weights"  # nothing learned, so nothing collapses
PRIMARY = ((FULL, "ce"), (FULL, f"{FULL}, {CONTROL}"))
# LARESA's sec. 2.4 says neither of which z nor how reduced. literal: of the raw z, summed over its dimensions, as it is
# written; at small batches it collapses the latents. unit: of z / |z|, the variance as a mean.
READINGS: Mapping[str, Mapping[str, Any]] = {
    "literal": {"center.input": "raw", "center.reduction": "sum", "variance.input": "raw", "variance.reduction": "sum"},
    "unit": {"center.input": "unit", "center.reduction": "sum", "variance.input": "unit", "variance.reduction": "mean"},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_comparison_options(parser, arms="the eight, and the full one's variants")
    add_reading_option(parser)


def add_reading_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reading",
        choices=tuple(READINGS),
        default="literal",
        help="how reg's center and variance are read: literally, as the paper writes them, or of unit latents; in the "
        "ablation the full arm of the other reading stands beside (default: %(default)s)",
    )


def build(args: argparse.Namespace) -> Study:
    """One cell a subset; beside the full one its variants, unless --subsets chooses."""
    chosen = subsets(args)
    base, readings = read_as(base_config(args), args)
    cells = [Cell(subset, base.replace(subset=subset)) for subset in chosen or SUBSETS]
    if not chosen:
        full, other = base.replace(subset=FULL), next(name for name in READINGS if name != args.reading)
        cells += beside_full(full, {f"{other} reading": readings[other]})
    return compared("ablation", cells, args, primary=PRIMARY)


def read_as(base: TrialConfig, args: argparse.Namespace) -> tuple[TrialConfig, dict[str, dict[str, Any]]]:
    """With the fields of --reading; and those of every reading, but for what --set gives."""
    given = set_fields(args.set)
    readings = {name: {n: v for n, v in fields.items() if n not in given} for name, fields in READINGS.items()}
    return base.replace(**readings[args.reading]), readings


def beside_full(full: TrialConfig, more: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """The control, equal weights, and what else varies the full subset; not what it is already."""
    variants: dict[str, Mapping[str, Any]] = {CONTROL: {"shuffle_labels": True}, EQUAL: {"weighting": "fixed"}, **more}
    cells = [Cell(f"{FULL}, {name}", full.replace(**fields)) for name, fields in variants.items()]
    return [cell for cell in cells if cell.config.signature() != full.signature()]


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "ablation", *sys.argv[1:]]))

"""Which part of LARESA helps, by how much, and is it luck? The eight loss subsets, the control, and one remedy.

Each arm is first tuned by a search of its own, all on one budget; then what they chose runs on every replicate.

python sweeps/ablation.py --dataset cifar100 --backbone resnet50
ray submit cluster.yaml sweeps/ablation.py --dataset cifar100
laresa run ablation ...
"""

from __future__ import annotations

import argparse
import sys

from laresa.config import SUBSETS, TrialConfig
from sweeps.comparison import TUNE, add_comparison_options, compared, settings, subsets
from sweeps.options import base_config
from sweeps.service.study import Cell, Study

__all__ = ["CONTROL", "REMEDY", "TUNE", "add_options", "build", "settings"]

CONTROL = "shuffled labels"  # the full arm on permuted label embeddings: what is left is regularisation, not meaning
REMEDY = "base_outside"  # keeps the weight of ce, which the paper's softmax lets collapse


def add_options(parser: argparse.ArgumentParser) -> None:
    add_comparison_options(parser, arms="the eight, control and remedy")


def build(args: argparse.Namespace) -> Study:
    """One cell a subset; beside the full one its control and remedy, unless --subsets chooses."""
    base, chosen = base_config(args), subsets(args)
    cells = [Cell(subset, base.replace(subset=subset)) for subset in chosen or SUBSETS]
    if not chosen:
        cells += beside_full(base.replace(subset=SUBSETS[-1]))
    return compared("ablation", cells, args)


def beside_full(full: TrialConfig) -> list[Cell]:
    """The control and the remedy of the full subset."""
    control = Cell(f"{full.subset}, {CONTROL}", full.replace(shuffle_labels=True))
    remedy = Cell(f"{full.subset}, {REMEDY} weights", full.replace(weighting=REMEDY))
    return [control] if full.weighting == REMEDY else [control, remedy]


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "ablation", *sys.argv[1:]]))

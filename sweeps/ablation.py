"""Which part of LARESA helps, by how much, and is it luck? The eight loss subsets, the control, and one remedy.

python sweeps/ablation.py --dataset cifar100 --backbone resnet50 --gpus-per-trial 0.25
ray submit cluster.yaml sweeps/ablation.py --dataset cifar100 --gpus-per-trial 0.25
laresa run ablation ...
"""

from __future__ import annotations

import argparse
import sys

from laresa.config import SUBSETS, TrialConfig, canonical_subset
from sweeps.service.options import add_study_options, base_config, replicates
from sweeps.service.study import Cell, Study

CONTROL = "shuffled labels"  # the full arm on permuted label embeddings: what is left is regularisation, not meaning
REMEDY = "ce_outside"  # keeps the weight of ce, which the paper's softmax lets collapse


def add_options(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser)
    parser.add_argument(
        "--subsets",
        metavar="S,S,...",
        help="loss subsets, such as ce,ce+anchor (default: the eight, control and remedy)",
    )


def build(args: argparse.Namespace) -> Study:
    """One cell a subset; beside the full one its control and remedy, unless --subsets chooses."""
    base = base_config(args)
    subsets = [canonical_subset(subset) for subset in args.subsets.split(",")] if args.subsets else list(SUBSETS)
    cells = [Cell(subset, base.replace(subset=subset)) for subset in subsets]
    if not args.subsets:
        cells += beside_full(base.replace(subset=SUBSETS[-1]))
    return Study(args.sweep or f"ablation-{args.dataset.strip('/').split('/')[-1]}", tuple(cells), replicates(args))


def beside_full(full: TrialConfig) -> list[Cell]:
    """The control and the remedy of the full subset."""
    control = Cell(f"{full.subset}, {CONTROL}", full.replace(shuffle_labels=True))
    remedy = Cell(f"{full.subset}, {REMEDY} weights", full.replace(weighting=REMEDY, alpha_init=None))
    return [control] if full.weighting == REMEDY else [control, remedy]


if __name__ == "__main__":
    from sweeps.cli import main

    sys.exit(main(["run", "ablation", *sys.argv[1:]]))

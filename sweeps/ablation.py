"""Which part of LARESA helps, by how much, and is it luck? The eight loss subsets, the control, and one remedy.

python sweeps/ablation.py --dataset cifar100 --backbone resnet50 --gpus-per-trial 0.25
ray submit cluster.yaml sweeps/ablation.py --dataset cifar100 --gpus-per-trial 0.25
laresa run ablation ...
"""

from __future__ import annotations

import argparse
import sys

from laresa.config import SUBSETS, TrialConfig
from laresa.terms import canonical_subset
from sweeps.options import add_search_options, add_study_options, base_config, replicates, search_space
from sweeps.service.study import Cell, Replicate, Search, Study

CONTROL = "shuffled labels"  # the full arm on permuted label embeddings: what is left is regularisation, not meaning
REMEDY = "base_outside"  # keeps the weight of ce, which the paper's softmax lets collapse


def add_options(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser)
    parser.add_argument(
        "--subsets",
        metavar="S,S,...",
        help="loss subsets, such as ce,ce+anchor (default: the eight, control and remedy)",
    )

    parser.add_argument(
        "--tune", type=int, metavar="N", help="first search each arm with N trials, then compare the best"
    )
    add_search_options(parser, trials=None)


def build(args: argparse.Namespace) -> Study:
    """One cell a subset; beside the full one its control and remedy, unless --subsets chooses."""
    base = base_config(args)
    subsets = [canonical_subset(subset) for subset in args.subsets.split(",")] if args.subsets else list(SUBSETS)
    cells = [Cell(subset, base.replace(subset=subset)) for subset in subsets]
    if not args.subsets:
        cells += beside_full(base.replace(subset=SUBSETS[-1]))
    name = args.sweep or f"ablation-{args.dataset.strip('/').split('/')[-1]}"
    known = replicates(args)
    searches = tuple(tuned(cell, args, known[0]) for cell in cells) if args.tune is not None else ()
    return Study(name, tuple(cells), known, searches, args.hours)


def tuned(cell: Cell, args: argparse.Namespace, replicate: Replicate) -> Search:
    """The search of one arm: the same budget for each, over the fields that matter to it, on validation only."""
    fixed = ("subset", "weighting", "shuffle_labels")  # they make the arm what it is
    from sweeps.service.search.space import has_effect

    space = {name: found for name, found in search_space(args).items() if name not in fixed}
    space = {name: found for name, found in space.items() if has_effect(name, cell.config)}
    return Search(
        name=cell.arm,
        base=cell.config,
        space=space,
        trials=args.tune,
        replicate=replicate,
        sampler=args.sampler,
        scheduler=args.scheduler or "asha",
        seed=args.search_seed,
        first=(cell.config,),
    )


def beside_full(full: TrialConfig) -> list[Cell]:
    """The control and the remedy of the full subset."""
    control = Cell(f"{full.subset}, {CONTROL}", full.replace(shuffle_labels=True))
    remedy = Cell(f"{full.subset}, {REMEDY} weights", full.replace(weighting=REMEDY))
    return [control] if full.weighting == REMEDY else [control, remedy]


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "ablation", *sys.argv[1:]]))

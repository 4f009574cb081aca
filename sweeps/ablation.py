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
from laresa.errors import ConfigError
from laresa.terms import canonical_subset
from sweeps.options import (
    add_search_options,
    add_study_options,
    base_config,
    replicates,
    search_space,
    tuning_replicate,
)
from sweeps.service.study import Cell, Replicate, Search, Study

CONTROL = "shuffled labels"  # the full arm on permuted label embeddings: what is left is regularisation, not meaning
TUNE = 12  # trials of full length that each arm's search may spend the epochs of
REMEDY = "base_outside"  # keeps the weight of ce, which the paper's softmax lets collapse


def add_options(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser)
    parser.add_argument(
        "--subsets",
        metavar="S,S,...",
        help="loss subsets, such as ce,ce+anchor (default: the eight, control and remedy)",
    )

    parser.add_argument(
        "--tune",
        type=int,
        default=TUNE,
        metavar="N",
        help="first search each arm's settings, with the epochs of N trials spent on as many as fit, then compare what "
        "was chosen; 0: compare the given settings (default: %(default)s)",
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
    if args.tune < 0:
        raise ConfigError(f"--tune {args.tune}: expected trials for each arm, or 0 to compare the given settings")
    if args.space and not args.tune:
        raise ConfigError(f"--space {args.space[0]} with --tune 0: nothing is searched; expected --tune N, or --set")
    judged = tuning_replicate(args)
    searches = tuple(search_of(cell, args, judged) for cell in cells) if args.tune else ()
    return Study(name, tuple(cells), replicates(args, tuned=args.tune > 0), searches, args.hours)


def settings(study: Study) -> str:
    """Whether its arms are tuned, in a line."""
    if not study.searches:
        return "given settings, not tuned; `--tune N` searches each arm"
    search = study.searches[0]
    return (
        f"each arm is tuned on {search.trials} x {search.base.epochs} = {search.epochs} epochs, on as many trials as "
        "fit; `--tune 0` takes the given settings"
    )


def search_of(cell: Cell, args: argparse.Namespace, replicate: Replicate) -> Search:
    """The search of one arm: the same budget for each, over the fields that matter to it, on data of no test."""
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
        by_epochs=True,
    )


def beside_full(full: TrialConfig) -> list[Cell]:
    """The control and the remedy of the full subset."""
    control = Cell(f"{full.subset}, {CONTROL}", full.replace(shuffle_labels=True))
    remedy = Cell(f"{full.subset}, {REMEDY} weights", full.replace(weighting=REMEDY))
    return [control] if full.weighting == REMEDY else [control, remedy]


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "ablation", *sys.argv[1:]]))

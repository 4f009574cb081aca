"""Which configuration is best? Optuna looks through loss subset, margin, learning rate, alpha and weighting.

python sweeps/search.py --dataset cifar100 --backbone resnet50 --trials 60 --gpus-per-trial 0.25
ray submit cluster.yaml sweeps/search.py --dataset cifar100 --trials 60
laresa run search ...
"""

from __future__ import annotations

import argparse
import sys

from laresa.config import SUBSETS
from sweeps.service.options import add_search_options, add_study_options, base_config, replicates, search_space
from sweeps.service.study import Search, Study


def add_options(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser, seeds="0")
    add_search_options(parser, trials=60)


def build(args: argparse.Namespace) -> Study:
    """One Optuna study on the first replicate; the paper's own settings, full and ce alone, are asked first."""
    base, known = base_config(args), replicates(args)
    search = Search(
        name="search",
        base=base,
        space=search_space(args),
        trials=args.trials,
        replicate=known[0],
        sampler=args.sampler,
        scheduler=args.scheduler,
        seed=args.search_seed,
        first=(base.replace(subset=SUBSETS[-1]), base.replace(subset="ce")),
    )
    name = args.sweep or f"search-{args.dataset.strip('/').split('/')[-1]}"
    return Study(name, (), (), (search,), args.hours)


if __name__ == "__main__":
    from sweeps.cli import main

    sys.exit(main(["run", "search", *sys.argv[1:]]))

"""Which configuration is best? Optuna looks through loss subset, margin, learning rate, alpha and weighting.

python sweeps/search.py --dataset cifar100 --backbone resnet50 --trials 60
ray submit cluster.yaml sweeps/search.py --dataset cifar100 --trials 60
laresa run search ...
"""

from __future__ import annotations

import argparse
import sys

from laresa.config import SUBSETS
from laresa.errors import ConfigError
from sweeps.options import add_search_options, add_study_options, base_config, replicates, search_space, sweep_name
from sweeps.service.study import Search, Study


def add_options(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser, seeds="0")
    add_search_options(parser, trials=60)
    parser.add_argument(
        "--objective",
        default="val/top1",
        metavar="METRIC,...",
        help="validation metrics to search by, at the epoch best on validation, on the one seed of --seeds and its "
        "fold; several are answered by their Pareto front: val/top1,val/nn_hit (default: val/top1)",
    )


def build(args: argparse.Namespace) -> Study:
    """One Optuna study on one replicate; the paper's own settings, full and ce alone, are asked first."""
    base, known = base_config(args), replicates(args)
    if len(known) > 1:
        raise ConfigError(f"--seeds {args.seeds}: expected one, a search is judged on one seed and fold")
    objectives = tuple(args.objective.split(","))
    search = Search(
        name="search",
        base=base,
        space=search_space(args),
        trials=args.trials,
        replicate=known[0],
        sampler=args.sampler,
        scheduler=args.scheduler or ("asha" if objectives == ("val/top1",) else "none"),
        seed=args.search_seed,
        objectives=objectives,
        first=(base.replace(subset=SUBSETS[-1]), base.replace(subset="ce")),
    )
    return Study(sweep_name(args, "search"), (), (), (search,), args.hours)


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "search", *sys.argv[1:]]))

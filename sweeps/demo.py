"""The demonstration: what a term does, and whether it is luck, in minutes, on pictures that come with the package.

First heads on frozen features: the ablation in the reading that works, on the ten test sets of icons158, its settings
chosen by validation of the ce arm on the group that no replicate is tested on. Then a handful of networks trained end
to end on emoji120: cross-entropy, and the full objective in both readings, to see what one of them does to a network.
"""

from __future__ import annotations

import argparse

from laresa.config import TrialConfig
from laresa.features import PACKAGED
from sweeps import ablation, recipes
from sweeps.ablation import FULL, READINGS
from sweeps.options import TINY, set_fields
from sweeps.service.study import Cell, Replicate, Study

__all__ = ["NETWORKS", "add_options", "build", "networks", "settings"]

NETWORKS = "networks"  # the second sweep is called after the first, with this behind
HEADS = {"input_size": "64", "heads.pca": "192"}  # features of 1280 dimensions would take three times as long
REPLICATES = (Replicate(0, 0), Replicate(1, 1))  # of the networks: enough to see, not to tell

settings = ablation.settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """The ablation's, with the demonstration's defaults."""
    ablation.add_options(parser)
    parser.add_argument("--no-networks", action="store_true", help="heads on frozen features alone")
    parser.set_defaults(
        dataset="icons158", features=PACKAGED, seeds=",".join(map(str, range(10))), tune=0, reading="unit", sweep="demo"
    )


def build(args: argparse.Namespace) -> Study:
    """The ablation of heads."""
    if args.features == PACKAGED:
        given = set_fields(args.set)
        args.set = [*args.set, *(f"{name}={value}" for name, value in HEADS.items() if name not in given)]
    return ablation.build(args)


def networks(args: argparse.Namespace) -> Study:
    """Cross-entropy and the full objective in both readings, trained end to end; no contrast is named."""
    base = TrialConfig(
        dataset="emoji120", corruptions="all", **recipes.merged(recipes.DEFAULT, "emoji120", None).fields
    )
    tiny = args.scale == "tiny"
    base = base.replace(epochs=TINY["epochs"]) if tiny else base
    cells = [Cell("ce", base.replace(subset="ce"))]
    cells += [Cell(f"{FULL}, {name} reading", base.replace(subset=FULL, **fields)) for name, fields in READINGS.items()]
    return Study(f"{args.sweep}-{NETWORKS}", tuple(cells), REPLICATES[: 1 if tiny else None])

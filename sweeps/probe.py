"""Which loss trains the best head on frozen features? Every loss here, hundreds of heads in minutes.

Features are taken once an image and kept; heads on them are trained many at a time. Each loss is first tuned by a
search of its own, all on one budget; then what they chose runs on every replicate. With --recipe hace_probe heads are
one linear layer, as HACE probes, and only losses that need no latent are compared.

python sweeps/probe.py --dataset cifar100 --features vit_large_patch14_dinov2.lvd142m --recipe hace_probe
ray submit cluster.yaml sweeps/probe.py --dataset cifar100 --features vit_large_patch14_dinov2.lvd142m
laresa run probe ...
"""

from __future__ import annotations

import argparse
import sys

from laresa.config import TrialConfig
from laresa.features import PACKAGED
from sweeps.comparison import add_comparison_options, compared, settings, subsets
from sweeps.hierarchy import HIERARCHY_ARMS, SPACE
from sweeps.options import base_config
from sweeps.service.study import Cell, Study

__all__ = ["PROBE_ARMS", "add_options", "build", "settings"]

# With a latent, and beside the losses that take the place of cross-entropy. hace+anchor: neither paper has tried it.
WITH_LATENT = (
    *("ce+anchor", "ce+anchor+triplet", "ce+anchor+triplet+reg"),
    *("ce+cpcc", "ce+tree_anchor", "ce+devise", "hace+anchor"),
)
PROBE_ARMS = (*HIERARCHY_ARMS, *WITH_LATENT)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_comparison_options(parser, arms="every base term; with a latent LARESA's and the neighbours' terms too")
    parser.set_defaults(features=PACKAGED)


def build(args: argparse.Namespace) -> Study:
    """One cell a loss, or a subset where --subsets chooses."""
    base = base_config(args)
    cells = [Cell(subset, base.replace(subset=subset)) for subset in subsets(args) or arms(base)]
    return compared("probe", cells, args, SPACE)


def arms(config: TrialConfig) -> tuple[str, ...]:
    """Those that such heads can be trained with."""
    return HIERARCHY_ARMS if config.values("heads").get("head") == "linear" else PROBE_ARMS


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "probe", *sys.argv[1:]]))

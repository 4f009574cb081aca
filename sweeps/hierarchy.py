"""Does a loss that knows the classes' tree pay? HACE against cross-entropy and its neighbours, each tuned alike.

Each arm is first tuned by a search of its own, all on one budget, over lr and the loss's own fields; then what they
chose runs on every replicate. Settings are HACE's own (--recipe hace) where the data set has none of its own.

python sweeps/hierarchy.py --dataset cifar100 --backbone resnet18
ray submit cluster.yaml sweeps/hierarchy.py --dataset cifar100 --backbone resnet18
laresa run hierarchy ...
"""

from __future__ import annotations

import argparse
import sys

from sweeps.comparison import add_comparison_options, compared, settings, subsets
from sweeps.options import base_config
from sweeps.service.study import Cell, Study

__all__ = ["HIERARCHY_ARMS", "add_options", "build", "settings"]

# Base terms, the baseline first.
HIERARCHY_ARMS = ("ce", "label_smoothing", "hxe", "soft_label", "hierarchical_softmax", "hace")
PRIMARY = (("hace", "ce"),)
SPACE = {"hace.smoothing": "0:0.2"}  # searched beside what names a range of its own


def add_options(parser: argparse.ArgumentParser) -> None:
    add_comparison_options(parser, arms=", ".join(HIERARCHY_ARMS), recipe="hace")


def build(args: argparse.Namespace) -> Study:
    """One cell a base term, or a subset where --subsets chooses (hace+anchor)."""
    base = base_config(args)
    return compared(
        "hierarchy", [Cell(s, base.replace(subset=s)) for s in subsets(args) or HIERARCHY_ARMS], args, SPACE, PRIMARY
    )


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "hierarchy", *sys.argv[1:]]))

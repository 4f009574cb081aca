"""The LARESA paper's whole protocol: nine backbones, three data sets, eight loss subsets, one study.

Each pair of backbone and data set is trained by the paper's recipe, with its seed. What it publishes, cross-entropy and
the full objective, is trained first, the smallest backbones first; so a quarter of the time gives a table to read. A
part of the grid is the same sweep, which grows by what is run later.

laresa plan paper
laresa run paper --dataset cifar100 --backbone resnet50 --gpus-per-trial 0.5
ray submit cluster.yaml sweeps/paper.py --max-gpu-hours 100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from laresa.config import SUBSETS
from laresa.errors import ConfigError
from sweeps.ablation import FULL, READINGS
from sweeps.comparison import subsets
from sweeps.options import add_study_options, base_config, describe_recipe, replicates, set_fields
from sweeps.recipes import BACKBONES, LARESA, NOT_1K, PAPERS, family
from sweeps.service.study import Cell, Study

__all__ = ["PRIMARY", "TINY", "add_options", "build", "recipe_lines"]

PRIMARY = ((FULL, "ce"),)
SEED = "42"
TINY = {"dataset": "emoji120,icons158", "backbone": "test_resnet,test_convnext,test_vit"}
TINY_SHOTS = 3  # icons158 has nine times as many images as emoji120


def add_options(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser, seeds=SEED, recipe=LARESA)
    parser.add_argument("--subsets", metavar="S,S,...", help="loss subsets (default: the eight)")
    parser.set_defaults(dataset=",".join(PAPERS), backbone=",".join(BACKBONES), tiny=TINY)


def build(args: argparse.Namespace) -> Study:
    """One cell a subset, in a block a pair of data set and backbone."""
    if "subset" in set_fields(args.set):
        raise ConfigError("--set subset: it would be ignored, each arm has its own; expected --subsets")
    if args.scale == "tiny" and not {"shots", "train_fraction"} & set_fields(args.set).keys():
        args.set = [*args.set, f"shots={TINY_SHOTS}"]
    given = set_fields(args.set)
    literal = {name: value for name, value in READINGS["literal"].items() if name not in given}
    chosen, cells, known = subsets(args) or list(SUBSETS), list[Cell](), None
    for pair in _pairs(args):
        base = base_config(pair).replace(**literal)
        cells += [Cell(s, base.replace(subset=s), block=f"{base.dataset}, {base.backbone}") for s in chosen]
        found = replicates(pair)
        if known not in (None, found):
            raise ConfigError(f"--folds {args.folds}: {args.dataset} have different folds; run one of them by itself")
        known = found
    primary = tuple(pair for pair in PRIMARY if {*pair} <= {*chosen})
    name = args.sweep or ("paper-tiny" if args.scale == "tiny" else "paper")
    return Study(name, tuple(cells), known or (), contrasts=primary, early=PRIMARY[0])


def recipe_lines(args: argparse.Namespace) -> list[str]:
    """The recipe of each data set and family."""
    found: dict[str, str] = {}
    for pair in _pairs(args):
        found.setdefault(f"{pair.dataset}, {family(pair.backbone) or pair.backbone}", describe_recipe(pair))
    marked = dict.fromkeys(name for pair in _pairs(args) if (name := base_config(pair).backbone) in NOT_1K)
    notes = [f"{name}: trained on ImageNet-21k first; timm has none of ImageNet-1k alone" for name in marked]
    return [*(f"{where}: {line}" for where, line in found.items()), *notes]


def _pairs(args: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """The options as they are for each pair."""
    folds = args.folds or ",".join("0" for _ in args.seeds.split(","))
    for backbone in _listed("--backbone", args.backbone) if not args.features else (None,):
        for dataset in _listed("--dataset", args.dataset):
            yield argparse.Namespace(**{**vars(args), "dataset": dataset, "backbone": backbone, "folds": folds})


def _listed(option: str, text: str) -> list[str]:
    found = [name.strip() for name in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise ConfigError(f"{option} {text!r}: expected names with commas between, each once")
    return found


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "paper", *sys.argv[1:]]))

"""How sensitive is LARESA's gain to the embeddings of the class names? Other texts, other encoders, corrupted labels.

Of the full objective: true names, prompts and descriptions; controls without meaning (shuffled over the classes, random
directions); a curve over the share of classes that have another's text, and over the share with another group's text as
their parent's. Primary are two contrasts: true names against shuffled ones, and against random directions.

python sweeps/embeddings.py --dataset cifar100 --backbone resnet18 --encoders allenai/scibert_scivocab_uncased
ray submit cluster.yaml sweeps/embeddings.py --dataset cifar100 --backbone resnet18
laresa run embeddings ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from laresa.config import TrialConfig
from laresa.errors import ConfigError, DataError
from laresa.terms import term
from sweeps import comparison
from sweeps.ablation import CONTROL, FULL, add_reading_option, read_as
from sweeps.comparison import add_comparison_options, compared, subsets
from sweeps.options import base_config, dataset_name
from sweeps.service.study import Cell, Study

__all__ = ["NOISE", "PROMPTS", "add_options", "build", "settings"]

RANDOM = "random vectors"
DESCRIBED = "descriptions"
PROMPTS = {"photo": "a photo of a {}", "concept": "the concept of {}"}
NOISE: Mapping[str, tuple[float, ...]] = {"label_noise": (0.2, 0.4, 0.6, 0.8), "coarse_noise": (0.5, 1.0)}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_comparison_options(parser, arms=f"ce, and {FULL} in every form")
    add_reading_option(parser)
    parser.add_argument(
        "--encoders",
        metavar="NAME,NAME",
        help="an arm for each of these sentence-transformers models too, by the hub's names or folders, such as "
        "allenai/scibert_scivocab_uncased,dmis-lab/biobert-v1.1; latents are as wide as their embeddings "
        "(default: none, for they are downloaded)",
    )


def build(args: argparse.Namespace) -> Study:
    """One cell a subset; beside each whose terms read the texts its forms and controls."""
    base, _ = read_as(base_config(args), args)
    cells, primary = list[Cell](), list[tuple[str, str]]()
    forms = dict(_forms(_encoders(args.encoders), described=_described(base)))
    for subset in subsets(args) or ("ce", FULL):
        true = base.replace(subset=subset)
        cells.append(Cell(subset, true))
        if any(term(name).labels for name in true.parts):
            found = [Cell(f"{subset}, {name}", true.replace(**fields)) for name, fields in forms.items()]
            # What --set has made of the true names' arm is no form of its own.
            cells += [cell for cell in found if cell.config.signature() != true.signature()]
            primary += [(subset, f"{subset}, {control}") for control in (CONTROL, RANDOM)]
    return compared("embeddings", cells, args, primary=primary)


def settings(study: Study) -> str:
    """Whether its arms are tuned, and what has no arm."""
    labelled = [cell for cell in study.cells if ", " in cell.arm]
    lacks = bool(labelled) and not any(cell.arm.endswith(DESCRIBED) for cell in labelled)
    return comparison.settings(study) + ("; no arm of descriptions: the taxonomy has none" if lacks else "")


def _forms(encoders: list[str], *, described: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(what stands behind the subset in an arm's name, fields)."""
    if described:
        yield DESCRIBED, {"label_text": "description"}
    for name, prompt in PROMPTS.items():
        yield f"prompt {name}", {"prompt": prompt}
    for encoder in encoders:
        yield f"encoder {encoder.rstrip('/').rpartition('/')[2]}", {"encoder": encoder}
    yield CONTROL, {"shuffle_labels": True}
    yield RANDOM, {"random_labels": True}
    for field, shares in NOISE.items():
        for share in shares:
            yield f"{field} {share:g}", {field: share}


def _encoders(text: str | None) -> list[str]:
    """ConfigError: an empty name, or two that end alike, whose arms would have one name."""
    found = [name.strip() for name in text.split(",")] if text else []
    ends = {name.rstrip("/").rpartition("/")[2] for name in found}
    if not all(found) or len(ends) < len(found):
        raise ConfigError(f"--encoders {text!r}: expected names with commas between, each once")
    return found


def _described(config: TrialConfig) -> bool:
    """Whether every class has a description; of a data set that is not on this machine, no."""
    from laresa.coarsen.classes import classes_of

    try:
        tree = classes_of(dataset_name(config.dataset)).tree
    except DataError:  # which the check of the trials tells
        return False
    return set(tree.names) <= set(tree.descriptions)


if __name__ == "__main__":
    from sweeps.cli.main import main

    sys.exit(main(["run", "embeddings", *sys.argv[1:]]))

"""The papers' own numbers, as package data: tables 2, 3, 7 and 8 of LARESA, read off the paper."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib import resources

# Of HACE only the abstract could be read.
HACE = (
    "Published (HACE, arXiv 2605.06274): better than cross-entropy in 15 of 18 pairs of data set and backbone trained "
    "end to end, mean gain 4.66 %; as a linear probe on DINOv2-Large best on all three data sets, 2.18 % over the next "
    "best. The abstract leaves open whether these are points or relative."
)
Key = tuple[str, str]  # (arm, metric as in the records)
Pair = tuple[str, str]  # (model, data set), both as the paper names them

BASELINE, LARESA = "ce", "ce+anchor+triplet+reg"
DATASETS = {"cifar100": "CIFAR-100", "cub200": "CUB-200", "tinyimagenet": "TinyImageNet"}
# timm's name up to its first dot -> the names that the paper's tables use for it
MODELS = {
    "resnet50": ("ResNet50",),
    "resnet101": ("ResNet101",),
    "resnet152": ("ResNet152",),
    "convnext_small": ("ConvNeXt-S",),
    "convnext_base": ("ConvNeXt-B", "ConvNeXt-Base"),
    "convnext_large": ("ConvNeXt-L",),
    "vit_small_patch32": ("ViT-Small-32", "ViT-Small"),
    "vit_base_patch32": ("ViT-Base-32", "ViT-Base"),
    "vit_large_patch32": ("ViT-Large-32", "ViT-Large"),
}
EPOCHS = "laresa_table8_epochs_to_peak.csv"
# Tables 2 and 3 have one column for `ce` and one for the full method: metric -> (file, stem of the column)
COLUMNS = {
    "test/nn_hit": ("laresa_table2_silhouette_nnhit.csv", "nn_hit"),
    "test/silhouette": ("laresa_table2_silhouette_nnhit.csv", "silhouette"),
    "test/spearman_coarse": ("laresa_table3_correlation.csv", "spearman"),
    "test/pearson_coarse": ("laresa_table3_correlation.csv", "pearson"),
}


def published(dataset: str, backbone: str) -> dict[Key, float]:
    """(arm, metric) -> the paper's value for our names of data set and backbone; empty where the paper has none.

    Units are the paper's: top-1 and NN-hit in percent.
    """
    name = dataset_name(dataset)
    return {key: number for model in models(backbone) for key, number in _numbers().get((model, name), {}).items()}


def dataset_name(dataset: str) -> str:
    """The paper's name of a data set of ours; "" where it has none."""
    return DATASETS.get(re.sub("[^a-z0-9]", "", dataset.lower()), "")


def models(backbone: str) -> tuple[str, ...]:
    """The paper's names of a backbone, the first one that of tables 1 and 7; none where it is not in the paper."""
    return MODELS.get(re.sub(r"_\d+$", "", backbone.split(".")[0]), ())


@cache
def top1_by_pair() -> dict[Pair, dict[str, float]]:
    """Table 7: (model, data set) -> percent by loss subset."""
    found: dict[Pair, dict[str, float]] = {}
    for row in _read("laresa_table7_top1.csv"):
        found.setdefault((row["model"], row["dataset"]), {})[row["losses"]] = float(row["top1"])
    return found


@cache
def epochs_by_pair() -> dict[Pair, dict[str, tuple[float, float]]]:
    """Table 8: (model, data set) -> (epochs, what stands behind its ±) of `ce` and of the full objective."""
    found: dict[Pair, dict[str, tuple[float, float]]] = {}
    for row in _read(EPOCHS):
        numbers = float(row["epochs_mean"]), float(row["epochs_std"])
        found.setdefault((row["model"], row["dataset"]), {})[row["losses"]] = numbers
    return found


@cache
def latents_by_pair(metric: str) -> dict[Pair, tuple[float, float]]:
    """Tables 2 and 3: (model, data set) -> (`ce`, full objective) of a metric named in COLUMNS."""
    file, stem = COLUMNS[metric]
    return {
        (row["model"], row["dataset"]): (float(row[f"{stem}_ce"]), float(row[f"{stem}_laresa"])) for row in _read(file)
    }


@cache
def _numbers() -> dict[Pair, dict[Key, float]]:
    """(the paper's model, data set) -> its numbers, all files together."""
    found: dict[Pair, dict[Key, float]] = {}
    for pair, by_subset in top1_by_pair().items():
        found.setdefault(pair, {}).update({(arm, "test/top1"): number for arm, number in by_subset.items()})
    for metric in COLUMNS:
        for pair, (ce, full) in latents_by_pair(metric).items():
            found.setdefault(pair, {}).update({(BASELINE, metric): ce, (LARESA, metric): full})
    for pair, epochs in epochs_by_pair().items():
        found.setdefault(pair, {}).update({(arm, "best_epoch"): mean for arm, (mean, _) in epochs.items()})
    return found


def _read(file: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))

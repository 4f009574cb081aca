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
    name = DATASETS.get(re.sub("[^a-z0-9]", "", dataset.lower()))
    models = MODELS.get(re.sub(r"_\d+$", "", backbone.split(".")[0]), ())
    return {key: number for model in models for key, number in _numbers().get((model, name or ""), {}).items()}


@cache
def _numbers() -> dict[tuple[str, str], dict[Key, float]]:
    """(the paper's model, data set) -> its numbers, all files together."""
    found: dict[tuple[str, str], dict[Key, float]] = {}

    def keep(row: dict[str, str], arm: str, metric: str, column: str) -> None:
        found.setdefault((row["model"], row["dataset"]), {})[arm, metric] = float(row[column])

    for row in _read("laresa_table7_top1.csv"):
        keep(row, row["losses"], "test/top1", "top1")
    for metric, (file, stem) in COLUMNS.items():
        for row in _read(file):
            keep(row, BASELINE, metric, f"{stem}_ce")
            keep(row, LARESA, metric, f"{stem}_laresa")
    for row in _read("laresa_table8_epochs_to_peak.csv"):
        keep(row, row["losses"], "best_epoch", "epochs_mean")
    return found


def _read(file: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))

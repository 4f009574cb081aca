"""Training settings as a table: by recipe, data set and family of backbones.

`merged` lays the rows that apply over each other, later rows over earlier ones; what a user gives wins over all
(sweeps.options.base_config). Another paper's recipes are more rows with a name of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laresa.errors import ConfigError

ANY = "*"
DEFAULT = "default"
LARESA = "laresa"
HEADS = "heads"  # --features takes it
FAMILIES = ("resnet", "convnext", "swin", "vit")  # of timm's names: resnet18, vit_base_patch16_224


@dataclass(frozen=True)
class Recipe:
    """One row. dataset, family: ANY or one. space: field -> where a search looks, as --space takes it."""

    name: str
    dataset: str
    family: str
    fields: Mapping[str, Any]
    space: Mapping[str, str] = field(default_factory=dict)


def _hace(lr: float, epochs: int, **more: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields and space of a HACE row: trained to its last epoch, lr looked for a power of ten to both sides."""
    fields = {"lr": lr, "batch_size": 128, "schedule": "cosine", "epochs": epochs, "patience": epochs, **more}
    return fields, {"lr": f"{lr / 10:g}:{lr * 10:g}:log"}


def _warmup(share: float) -> dict[str, Any]:
    return {"schedule": "warmup_cosine", "warmup_cosine.warmup": share}


_SGD = {"optimizer": "sgd", "sgd.momentum": 0.9, "weight_decay": 1e-4}
_ADAMW = {"optimizer": "adamw", "weight_decay": 0.05}

RECIPES = (
    # Some 700 small pictures: a small network and a small batch, some 0.7 s of one core an epoch. Batch size, lr and
    # schedule are the best of sixteen by validation top-1 of the ce arm; the epochs are what six minutes allow.
    Recipe(
        DEFAULT,
        "emoji120",
        ANY,
        {
            "backbone": "test_resnet",
            "channels_last": True,
            "lr": 4e-3,
            "schedule": "cosine",
            "batch_size": 32,
            "epochs": 18,
            "patience": 18,
        },
    ),
    # LARESA, sec. 4 and App. A. The batch size is stated nowhere. "ImageNet-1k weights via timm" names no tag: WEIGHTS
    # pins them. Nor does it say at which size a pretrained network sees 32 pixels: its top-1 on CIFAR-100, 73 % of
    # ConvNeXts and 62 % of ViTs, is far from what fine-tuning at 224 px gives (some 90 %); so the images' own size, for
    # which position embeddings are interpolated. Its ResNet-50 from scratch, 76.6 % there and 64.6 % on TinyImageNet,
    # needs CIFAR's stem.
    Recipe(LARESA, ANY, ANY, {"optimizer": "adam", "weight_decay": 0.0, "schedule": "none", "batch_size": 128}),
    Recipe(LARESA, ANY, ANY, {"epochs": 1000, "patience": 100, "augment": "autoaugment+crop+flip"}),
    Recipe(LARESA, ANY, "resnet", {"lr": 1e-3, "pretrained": False}),
    Recipe(LARESA, ANY, "convnext", {"lr": 3e-4, "pretrained": True}),
    Recipe(LARESA, ANY, "vit", {"lr": 3e-4, "pretrained": True}),
    Recipe(LARESA, "cifar100", ANY, {"normalisation": "none"}),  # ToTensor alone
    Recipe(LARESA, "cifar100", "resnet", {"stem": "cifar"}),
    Recipe(LARESA, "cub200", ANY, {"augment": "autoaugment+flip", "normalisation": "imagenet"}),
    Recipe(LARESA, "tinyimagenet", ANY, {"augment": "autoaugment+resizedcrop+flip", "normalisation": "imagenet"}),
    Recipe(LARESA, "tinyimagenet", "resnet", {"stem": "cifar"}),
    # HACE, https://arxiv.org/abs/2605.06274, as its authors' code trains. Unlike theirs: the best epoch is chosen on
    # validation, and every loss has its own lr.
    Recipe("hace", ANY, "resnet", *_hace(0.1, 750, **_SGD)),
    Recipe("hace", ANY, "convnext", *_hace(1.25e-4, 400, **_ADAMW)),
    Recipe("hace", ANY, "swin", *_hace(1.25e-4, 500, **_ADAMW, **_warmup(20 / 500))),
    Recipe(
        "hace",
        ANY,
        "vit",
        *_hace(
            3e-3,
            300,
            **{**_ADAMW, "weight_decay": 0.3, "batch_size": 64, "dropout": 0.1},
            **_warmup(10 / 300),
        ),
    ),
    Recipe("hace", "cifar100", ANY, {"augment": "crop+flip"}),
    Recipe("hace", "cifar100", "resnet", {"stem": "cifar", "epochs": 450, "patience": 450}),
    Recipe("hace", "cifar100", "vit", {"input_size": 224}),
    Recipe("hace", "fgvc_aircraft", ANY, {"image_size": 224, "augment": "resizedcrop+flip"}),
    Recipe("hace", "nabirds", ANY, {"image_size": 224, "augment": "resizedcrop+flip"}),
    # Heads on frozen features. Beyond some hundred epochs a head on good features only overfits: patience ends it.
    # A look at a head's latents costs several of its epochs.
    Recipe(
        HEADS,
        ANY,
        ANY,
        {"lr": 1e-3, "schedule": "cosine", "batch_size": 128, "epochs": 100, "patience": 30, "watch_every": 5},
    ),
    Recipe(HEADS, "emoji120", ANY, {"batch_size": 32, "epochs": 30}),
    # By validation top-1 of the ce arm on the group kept for settings (four seeds, tf_efficientnet_lite0 at 64 px, 192
    # dimensions): .753; of twelve settings the best, batches of 128 at 1e-3, had .755 for twice the time.
    Recipe(HEADS, "icons158", ANY, {"batch_size": 256, "lr": 2e-3, "epochs": 10, "patience": 10}),
    # HACE's linear probe: DINOv2-Large's CLS token, one linear layer. Their lr is 0.1, for HACE 0.1 over its dilution,
    # and ends at 0.01.
    Recipe(
        "hace_probe",
        ANY,
        ANY,
        {
            "heads.head": "linear",
            "heads.pool": "cls",
            "heads.l2_normalise": True,
            "optimizer": "sgd",
            "sgd.momentum": 0.9,
            "weight_decay": 0.0,
            "lr": 0.1,
            "schedule": "warmup_cosine",
            "warmup_cosine.warmup": 0.0,
            "warmup_cosine.floor": 0.1,
            "batch_size": 1024,
            "epochs": 2000,
            "patience": 2000,
            "watch_every": 100,
        },
        {"lr": "0.01:1:log"},
    ),
)
PAPERS = ("cifar100", "cub200", "tinyimagenet")  # data sets that LARESA's recipe is for
# timm's ImageNet-1k weights. Of ViT-S/32 and ViT-L/32 it has none trained on that alone: first on ImageNet-21k, and of
# the latter at 384 px.
WEIGHTS = {
    "convnext_small": "convnext_small.fb_in1k",
    "convnext_base": "convnext_base.fb_in1k",
    "convnext_large": "convnext_large.fb_in1k",
    "vit_small_patch32_224": "vit_small_patch32_224.augreg_in21k_ft_in1k",
    "vit_base_patch32_224": "vit_base_patch32_224.augreg_in1k",
    "vit_large_patch32_384": "vit_large_patch32_384.orig_in21k_ft_in1k",
}
_SMALL, _BASE, _LARGE = ([WEIGHTS[name] for name in WEIGHTS if size in name] for size in ("small", "base", "large"))
NOT_1K = tuple(tag for tag in WEIGHTS.values() if "in21k" in tag)
BACKBONES = ("resnet50", *_SMALL, "resnet101", *_BASE, "resnet152", *_LARGE)  # the paper's nine, the smallest first
NAMES = tuple(dict.fromkeys(row.name for row in RECIPES))


def merged(name: str, dataset: str, backbone: str | None) -> Recipe:
    """What a recipe says of a data set and a backbone, in one row.

    ConfigError: none of its rows, but for DEFAULT's, says how such a backbone is trained.
    """
    own = family(backbone or "")
    fits = [r for r in RECIPES if r.name == name and r.dataset in (ANY, dataset) and r.family in (ANY, own)]
    fields: dict[str, Any] = {}
    space: dict[str, str] = {}
    for row in fits:
        fields |= row.fields
        space |= row.space
    if name != DEFAULT and "lr" not in fields:
        known = ", ".join(dict.fromkeys(row.family for row in RECIPES if row.name == name and row.family != ANY))
        raise ConfigError(
            f"--recipe {name} has no settings for backbone {backbone!r}: expected one of the families {known}, such as "
            f"--backbone resnet18, or --recipe {DEFAULT}"
        )
    return Recipe(name, dataset, own, fields, space)


def of_heads(name: str) -> bool:
    """Whether a recipe is for heads on frozen features."""
    return name in (HEADS, "hace_probe")


def own(dataset: str, backbone: str, study: str) -> str:
    """The recipe where none is named. A data set's own settings no study replaces unasked; the paper's data sets have
    the paper's, for the families it trains. study: the recipe of the study, else DEFAULT.
    """
    if any(row.name == DEFAULT and row.dataset == dataset for row in RECIPES):
        return DEFAULT
    if study != DEFAULT:
        return study
    trained = {row.family for row in RECIPES if row.name == LARESA and "lr" in row.fields}
    return LARESA if dataset in PAPERS and family(backbone) in trained else DEFAULT


def pinned(name: str, backbone: str) -> str:
    """timm's name with the weights that a recipe means, where none are named."""
    return WEIGHTS.get(backbone, backbone) if name == LARESA else backbone


def family(backbone: str) -> str:
    """Of FAMILIES, or "" for another backbone."""
    return next((name for name in FAMILIES if re.match(rf"{name}(\d|_|$)", backbone)), "")

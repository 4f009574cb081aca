"""The table of recipes: which rows apply, that they train what they say, and that a user's word wins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from laresa.config import TrialConfig, full_name
from laresa.errors import ConfigError
from laresa.model import build_model
from sweeps import ablation, hierarchy
from sweeps.cli.main import main
from sweeps.options import base_config, describe_recipe, search_space
from sweeps.recipes import ANY, BACKBONES, DEFAULT, FAMILIES, RECIPES, Recipe, family, merged, of_heads
from sweeps.service.search.space import check_space, parse_distribution

RESNETS = ("resnet18", "resnet34", "resnet50")
SIX = (*RESNETS, "convnext_tiny", "swin_tiny_patch4_window7_224", "vit_base_patch16_224")
HACE_SETS = ("cifar100", "fgvc_aircraft", "nabirds")


def options(*arguments: str, study=hierarchy) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    study.add_options(parser)
    return parser.parse_args(arguments)


def base(*arguments: str, study=hierarchy) -> TrialConfig:
    return base_config(options(*arguments, study=study))


@pytest.mark.parametrize("row", RECIPES, ids=lambda row: f"{row.name}-{row.dataset}-{row.family}")
def test_every_row_is_of_known_fields_by_their_full_names(row: Recipe) -> None:
    fields = {**row.fields, **({"method": "heads"} if of_heads(row.name) else {})}
    assert row.family in (ANY, *FAMILIES)
    assert all(full_name(name) == name for name in fields)
    config = TrialConfig(**fields)
    effective = {name: config.resolved.get(name) for name in fields}
    assert effective == fields, "a row says what has no effect"
    check_space({name: parse_distribution(name, text) for name, text in row.space.items()}, config)


@pytest.mark.parametrize(
    ("backbone", "named"),
    [
        ("resnet18", "resnet"),
        ("resnet50.a1_in1k", "resnet"),
        ("convnext_tiny", "convnext"),
        ("swin_tiny_patch4_window7_224", "swin"),
        ("vit_base_patch16_224", "vit"),
        ("swinv2_tiny_window8_256", ""),  # another network, of which their table says nothing
        ("test_resnet", ""),
        ("resnetv2_50", ""),
        ("vitamin_small_224", ""),
        ("", ""),
    ],
)
def test_a_backbone_belongs_to_a_family_by_its_name(backbone: str, named: str) -> None:
    assert family(backbone) == named


def test_hace_s_table_is_the_authors() -> None:
    """What their code trains with, as read there: lr, weight decay, batch, epochs on CIFAR-100 and elsewhere."""
    told = {
        "resnet50": ("sgd", 0.1, 1e-4, 128, 450, 750),
        "convnext_tiny": ("adamw", 1.25e-4, 0.05, 128, 400, 400),
        "swin_tiny_patch4_window7_224": ("adamw", 1.25e-4, 0.05, 128, 500, 500),
        "vit_base_patch16_224": ("adamw", 3e-3, 0.3, 64, 300, 300),
    }
    for backbone, (optimizer, lr, decay, batch, cifar, other) in told.items():
        for dataset, epochs in (("cifar100", cifar), ("nabirds", other), ("fgvc_aircraft", other)):
            fields = merged("hace", dataset, backbone).fields
            found = tuple(fields[name] for name in ("optimizer", "lr", "weight_decay", "batch_size", "epochs"))
            assert found == (optimizer, lr, decay, batch, epochs), (backbone, dataset)
            assert fields["patience"] == epochs, "trained to its last epoch"
            warm = {"swin_tiny_patch4_window7_224": 20, "vit_base_patch16_224": 10}.get(backbone, 0)
            assert fields["epochs"] * fields.get("warmup_cosine.warmup", 0.0) == pytest.approx(warm)
            assert fields["schedule"] == ("warmup_cosine" if warm else "cosine")
            assert fields["augment"] == ("crop+flip" if dataset == "cifar100" else "resizedcrop+flip")
            low, high = (float(end) for end in merged("hace", dataset, backbone).space["lr"].split(":")[:2])
            assert (low, high) == pytest.approx((lr / 10, lr * 10))
    assert merged("hace", "cifar100", "resnet18").fields["stem"] == "cifar"
    assert "stem" not in merged("hace", "nabirds", "resnet18").fields
    assert "stem" not in merged("hace", "cifar100", "convnext_tiny").fields


def test_the_probe_s_row_is_the_authors() -> None:
    config = base("--features", "resnet18", "--recipe", "hace_probe", study=ablation)
    assert (config.optimizer, config.values("sgd"), config.weight_decay) == ("sgd", {"momentum": 0.9}, 0.0)
    assert (config.batch_size, config.epochs, config.patience) == (1024, 2000, 2000)
    assert (config.method, config["pool"], config["l2_normalise"], config["head"]) == ("heads", "cls", True, "linear")
    assert config.lr * config["floor"] == pytest.approx(1e-2), "the cosine's end"
    assert config["warmup"] == 0


PAPER = {  # App. A, by family: lr, weights of ImageNet
    "resnet": (1e-3, False), "convnext": (3e-4, True), "vit": (3e-4, True),
}  # fmt: skip
TRANSFORMS = {  # by data set: augmentations, normalisation
    "cifar100": ("autoaugment+crop+flip", "none"),
    "cub200": ("autoaugment+flip", "imagenet"),
    "tinyimagenet": ("autoaugment+resizedcrop+flip", "imagenet"),
}


@pytest.mark.parametrize("dataset", TRANSFORMS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_of_the_paper_s_27_pairs_is_trained_as_it_says(dataset: str, backbone: str) -> None:
    """In every study whose data set and backbone it is, unless the study has a recipe of its own."""
    config = base("--dataset", dataset, "--backbone", backbone.partition(".")[0], study=ablation)
    augment, normalisation = TRANSFORMS[dataset]
    lr, pretrained = PAPER[family(backbone)]
    assert (config.lr, config.pretrained, config.backbone) == (lr, pretrained, backbone)
    assert (config.augment, config.normalisation) == (augment, normalisation)
    assert (config.optimizer, config.weight_decay, config.schedule) == ("adam", 0.0, "none")
    assert (config.epochs, config.patience, config.batch_size) == (1000, 100, 128)
    assert (config.split_seed, config.encoder, config.label_text) == (42, "all-MiniLM-L6-v2", "name")
    assert config.stem == ("cifar" if family(backbone) == "resnet" and dataset != "cub200" else None)
    assert (config.image_size, config.input_size, config.latent_dim) == (None, None, None)  # the data's, the texts' 384
    full = config.replace(subset="ce+anchor+triplet+reg")
    assert full.alpha_init == (1.0,) * 5
    assert (full["triplet.margin"], full["anchor.beta"], full["anchor.beta_learned"]) == (0.2, (1.0, 1.0), True)
    assert (full.weighting, full.alpha_lr, full["variance.reduction"]) == ("softmax", None, "sum")
    hierarchical = base("--dataset", dataset, "--backbone", "resnet50")
    assert hierarchical.optimizer == "sgd", "the study hierarchy has HACE's"


def test_weights_that_the_user_names_are_not_replaced() -> None:
    given = ["--dataset", "cub200", "--backbone"]
    assert base(*given, "convnext_base.fb_in22k", study=ablation).backbone == "convnext_base.fb_in22k"
    scratch = base(*given, "convnext_base", "--set", "pretrained=false", study=ablation)
    assert (scratch.backbone, scratch.pretrained) == ("convnext_base", False)


def test_a_data_set_s_own_recipe_comes_before_the_study_s() -> None:
    assert merged(DEFAULT, "emoji120", None).fields["backbone"] == "test_resnet"
    assert base().lr == base(study=ablation).lr == 4e-3
    assert base("--dataset", "cifar100", "--backbone", "resnet18").optimizer == "sgd"
    assert base("--dataset", "svhn", "--backbone", "resnet18", study=ablation) == TrialConfig(
        dataset="svhn", backbone="resnet18"
    )
    tiny = base("--dataset", "cifar100", "--backbone", "test_resnet", study=ablation)
    assert tiny.augment == "crop+flip", "of a family that the paper doesn't train, the defaults"
    hace = base("--backbone", "resnet18", "--recipe", "hace", study=ablation)
    assert (hace.dataset, hace.lr, hace.epochs) == ("emoji120", 0.1, 750)


def test_what_the_user_gives_wins() -> None:
    given = ["--dataset", "cifar100", "--backbone", "resnet18"]
    plain = base(*given)
    changed = base(*given, "--epochs", "7", "--set", "lr=0.5", "--set", "momentum=0.8", "--set", "stem=default")
    assert (changed.epochs, changed.lr, changed["momentum"], changed.stem) == (7, 0.5, 0.8, None)
    assert changed.replace(epochs=450, lr=0.1, stem="cifar", **{"sgd.momentum": 0.9}) == plain
    assert base("--dataset", "cifar100", "--set", "backbone=convnext_tiny").optimizer == "adamw"


def test_the_recipe_says_where_a_search_looks_and_the_user_says_so_last() -> None:
    given = ["--dataset", "cifar100", "--backbone", "resnet18"]
    assert search_space(options(*given))["lr"] == parse_distribution("lr", "0.01:1:log")
    assert search_space(options(*given, "--space", "lr=0.1:0.2"))["lr"] == parse_distribution("lr", "0.1:0.2")
    assert "lr" not in search_space(options(*given, "--set", "lr=0.3"))
    assert search_space(options())["lr"] == search_space(options(study=ablation))["lr"]


@pytest.mark.parametrize("backbone", ["test_resnet", "efficientnet_b0"])
def test_a_backbone_the_recipe_does_not_know_is_refused(backbone: str) -> None:
    with pytest.raises(ConfigError, match=rf"--recipe hace has no settings for backbone '{backbone}'.*resnet.*default"):
        base("--dataset", "cifar100", "--backbone", backbone)
    assert base("--dataset", "cifar100", "--backbone", backbone, "--recipe", "default").lr == 1e-3


@pytest.mark.parametrize("backbone", SIX)
def test_the_six_backbones_of_hace_take_cifar_by_their_recipe(backbone: str) -> None:
    config = base("--dataset", "cifar100", "--backbone", backbone)
    size = config.input_size or 32
    model = build_model(
        backbone,
        pretrained=False,
        input_size=size,
        latent_dim=8,
        outputs=120,
        stem=config.stem or "default",
        dropout=config.dropout or 0.0,
    )
    assert config.stem == ("cifar" if backbone in RESNETS else None)
    assert size == (224 if backbone.startswith("vit") else 32)
    with torch.no_grad():
        logits, z_ND, _ = model.eval()(torch.rand(2, 3, size, size))
    assert (logits.shape, z_ND.shape) == ((2, 120), (2, 8))
    assert logits.isfinite().all()


@pytest.mark.parametrize("dataset", HACE_SETS)
def test_the_recipe_is_told_in_a_line(dataset: str) -> None:
    line = describe_recipe(options("--dataset", dataset, "--backbone", "resnet18", "--set", "lr=0.2"))
    assert line.startswith("recipe hace: batch_size=128, schedule=cosine, epochs=")
    assert "weight_decay=0.0001" in line
    assert line.endswith("; given otherwise: lr=0.2")
    assert describe_recipe(options("--dataset", dataset, study=ablation)) == (
        "recipe default: the fields' own defaults"
    )


def test_the_plan_tells_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("LARESA_HOME", str(tmp_path))
    monkeypatch.setattr("sweeps.service.driver.request.check_trials", lambda *given: None)  # cifar100 need not be here
    words = ["plan", "hierarchy", "--dataset", "cifar100", "--backbone", "resnet18", "--seeds", "0", "--epochs", "2"]
    assert main([*words, "--tune", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "hierarchy-cifar100: given settings, not tuned; `--tune N` searches each arm"
    assert lines[1].startswith("hierarchy-cifar100: recipe hace: lr=0.1, batch_size=128, schedule=cosine, patience=450")
    assert lines[1].endswith("stem=cifar; given otherwise: epochs=2")
    assert main([*words, "--tune", "0", "--json"]) == 0
    assert capsys.readouterr().out.startswith("["), "nothing but JSON"

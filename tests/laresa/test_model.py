"""Backbones: the stem for small images, and dropout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from laresa import plugins
from laresa.config import TrialConfig
from laresa.data import Dataset
from laresa.errors import ConfigError
from laresa.methods.end_to_end import EndToEnd
from laresa.model import LatentClassifier, build_model
from laresa.training import fit
from tests.laresa.checks import learned

RESNETS = ("resnet18", "resnet34", "resnet50")


def made(name: str, size: int = 32, **options) -> LatentClassifier:
    return build_model(name, pretrained=False, input_size=size, latent_dim=8, outputs=5, **options)


def map_sizes(backbone: nn.Module, size: int) -> list[int]:
    """Side of the map after the stem and after each of a ResNet's four stages."""
    sides: list[int] = []
    watched = [backbone.maxpool, *(getattr(backbone, f"layer{number}") for number in range(1, 5))]
    hooks = [layer.register_forward_hook(lambda *found: sides.append(found[2].shape[-1])) for layer in watched]
    with torch.no_grad():
        backbone.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sides


@pytest.mark.parametrize("name", RESNETS)
def test_the_cifar_stem_keeps_the_size_of_the_image(name: str) -> None:
    backbone = made(name, stem="cifar").backbone
    assert map_sizes(backbone, 32) == [32, 32, 16, 8, 4]
    assert tuple(backbone.conv1.weight.shape) == (64, 3, 3, 3)
    if name == "resnet18":
        assert map_sizes(made(name).backbone, 32) == [8, 8, 4, 2, 1]


def test_the_cifar_stem_is_drawn_by_the_seed_and_as_wide_as_a_resnets() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(made("resnet18", stem="cifar").backbone.conv1.weight.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # fan out: 64 maps of 3 x 3


def test_a_trial_with_stem_and_dropout_goes_on_from_its_checkpoint_to_the_bit(
    tiny: Dataset, config: TrialConfig, tmp_path: Path, one_thread: None
) -> None:
    """Its weights are loaded strictly into a network that is built from the configuration alone."""
    config = config.replace(backbone="resnet18", stem="cifar", dropout=0.2, input_size=16, epochs=2, subset="ce")
    whole, first = EndToEnd(config, tiny, "cpu"), EndToEnd(config, tiny, "cpu")
    for _ in range(2):
        whole.epoch()
    first.epoch()
    first.save(tmp_path / "checkpoint")
    torch.manual_seed(99)
    second = EndToEnd(config, tiny, "cpu")
    second.restore(tmp_path / "checkpoint")
    second.epoch()
    assert learned(second.result()) == learned(whole.result())
    assert second.result().weights["backbone.conv1.weight"].shape[-2:] == (3, 3)


def differs(model: nn.Module, size: int = 32) -> bool:
    """Whether two passes over the same images differ in training."""
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        return not torch.equal(model.train()(images)[0], model(images)[0])


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_convnext", "test_vit"])
def test_dropout_drops_in_training_alone(name: str) -> None:
    assert not differs(made(name))
    model = made(name, dropout=0.3)
    assert differs(model)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(images)[0], model(images)[0])


def test_a_convnets_features_are_dropped_at_the_given_rate() -> None:
    model = made("resnet18", dropout=0.3)
    seen: list[Tensor] = []
    model.latent.register_forward_hook(lambda layer, given, found: seen.append(given[0]))
    with torch.no_grad():
        model.train()(images := torch.rand(64, 3, 32, 32))
        model.backbone.drop_rate = 0.0
        model(images)
    dropped, whole = seen
    at = whole != 0  # a rectifier makes zeros of its own
    assert (dropped[at] == 0).double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.allclose(dropped[dropped != 0], (whole / 0.7)[dropped != 0])


def test_a_transformer_drops_behind_its_embedding_and_in_every_block() -> None:
    backbone = made("test_vit", dropout=0.3).backbone
    rates = {name: layer.p for name, layer in backbone.named_modules() if isinstance(layer, nn.Dropout)}
    dropping = {name for name, rate in rates.items() if rate == 0.3}
    blocks = {f"blocks.{i}.{place}" for i in range(len(backbone.blocks)) for place in ("attn.proj_drop", "mlp.drop1")}
    assert dropping >= {"pos_drop", *blocks}
    assert rates["head_drop"] == 0  # torchvision's ViT, which HACE trains, has none there


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convnext_tiny", {"stem": "cifar"}, r"stem=cifar: backbone 'convnext_tiny' has no ResNet's stem"),
        ("resnet18d", {"stem": "cifar"}, r"stem=cifar: backbone 'resnet18d' has no ResNet's stem"),
        ("test_vit", {"stem": "cifar"}, r"expected stem=default"),
        ("small", {"stem": "cifar"}, r"stem=cifar: backbone 'small' is a plugin's"),
        ("small", {"dropout": 0.1}, r"dropout=0.1: backbone 'small' is a plugin's"),
    ],
)
def test_a_backbone_that_has_no_such_stem_or_dropout_is_refused(name: str, options: dict, message: str, plugin) -> None:
    plugin(
        """
        import torch

        BACKBONES = {"small": lambda input_size, pretrained: torch.nn.Flatten()}
        """
    )
    assert "small" in plugins.table("BACKBONES")
    with pytest.raises(ConfigError, match=message):
        made(name, **options)


def test_stem_and_dropout_are_learned_with(tiny: Dataset, config: TrialConfig) -> None:
    config = config.replace(backbone="resnet18", subset="ce", input_size=16, epochs=1)
    results = [fit(config.replace(**more), dataset=tiny) for more in ({}, {"stem": "cifar"}, {"dropout": 0.5})]
    assert len({result.history[0].metrics["train/loss"] for result in results}) == 3

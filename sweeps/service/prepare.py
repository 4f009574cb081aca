"""Before the first trial: data decoded, label texts embedded, backbones built once; and what code this is."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from laresa.errors import ConfigError
from sweeps.service.study import Study


def prepare(study: Study) -> None:
    """Once, before the first trial: decode the data sets, embed the label texts, build each backbone to see it fits."""
    from laresa.data import load
    from laresa.labels import label_embeddings
    from laresa.model import build_model

    searched = [
        search.base.replace(seed=search.replicate.seed, fold=search.replicate.fold) for search in study.searches
    ]
    datasets: dict[tuple[Any, ...], Any] = {}
    models: set[tuple[Any, ...]] = set()
    for config in [*(trial.config for trial in study.trials()), *searched]:
        data_key = (config.dataset, config.fold, config.split_seed, config.image_size, config.skip_bad_images)
        if data_key not in datasets:
            datasets[data_key] = load(config)
        data = datasets[data_key]
        labels = label_embeddings(data.taxonomy, encoder=config.encoder, label_text=config.label_text)
        width = labels.fine_CD.shape[1]
        if config.latent_dim not in (None, width) and {"anchor", "triplet"} & set(config.parts):
            raise ConfigError(
                f"latent_dim={config.latent_dim}: anchor and triplet compare latents with label embeddings, "
                f"which have {width} dimensions with encoder {config.encoder!r}; leave latent_dim out"
            )
        size = config.input_size or data.train.images.shape[-1]
        shape = {"input_size": size, "latent_dim": config.latent_dim or width, "classes": len(data.taxonomy.names)}
        model_key = (config.backbone, config.pretrained, *shape.values())
        if model_key not in models:
            models.add(model_key)
            build_model(config.backbone, pretrained=config.pretrained, **shape)


def provenance_tags() -> dict[str, str]:
    """Versions, commit and command behind the numbers."""
    tags = {f"laresa.version.{name}": metadata.version(name) for name in ("torch", "timm", "ray", "mlflow", "optuna")}
    tags["laresa.version"] = metadata.version("laresa-sweeps")
    tags["laresa.version.python"] = platform.python_version()
    tags["laresa.git_commit"], tags["laresa.code"] = git_commit(), code_digest()
    return tags


def code_digest() -> str:
    """SHA-256 (16 digits) of every Python file of the packages: the code itself, wherever it runs, changed or not."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for package in ("laresa", "sweeps", "reports", "cluster"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def git_commit() -> str:
    """Commit of the code, "+dirty" if changed since. Outside a checkout what `laresa submit` told, or "unknown"."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LARESA_GIT_COMMIT", "unknown")
    return head.strip() + ("+dirty" if changed.strip() else "")

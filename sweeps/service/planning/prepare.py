"""Before the first trial: data decoded, label texts embedded, backbones built once."""

from __future__ import annotations

from typing import Any

from laresa.errors import ConfigError
from sweeps.service.study import Study


def prepare(study: Study) -> None:
    """Once, before the first trial: decode the data sets, embed the label texts, build each backbone to see it fits."""
    from laresa.data import key, load
    from laresa.labels import label_embeddings
    from laresa.model import build_model

    searched = [search.replicate.of(search.base) for search in study.searches]
    datasets: dict[tuple[Any, ...], Any] = {}
    models: set[tuple[Any, ...]] = set()
    for config in [*(trial.config for trial in study.trials()), *searched]:
        if key(config) not in datasets:
            datasets[key(config)] = load(config)
        data = datasets[key(config)]
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

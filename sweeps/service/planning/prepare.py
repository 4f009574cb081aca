"""Before the first trial: data decoded, label texts embedded, each arm's losses and network built once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from laresa.config import TrialConfig
from sweeps.service.study import Study

if TYPE_CHECKING:
    from laresa.data.dataset import Dataset

MODEL = (
    *("backbone", "pretrained", "input_size", "image_size", "stem", "dropout", "latent_dim"),
    *("encoder", "dataset", "method"),
)


def prepare(study: Study) -> None:
    """Once, before the first trial: what every kind of trial needs is had, and fits together.

    Data sets are decoded, label texts embedded; of each arm and search the method is started on a fold and dropped, so
    that a backbone, a head or a term that can't be is refused before anything is trained.
    """
    from laresa.data import data_key, load

    searched = [search.replicate.of(search.base) for search in study.searches]
    datasets: dict[tuple[Any, ...], Dataset] = {}
    started: set[tuple[Any, ...]] = set()
    for config in [*(trial.config for trial in study.trials()), *searched]:
        key = data_key(config)
        if key not in datasets:
            datasets[key] = load(config)
        kind = (config.subset, *(config.resolved.get(name) for name in MODEL))
        if kind not in started:
            started.add(kind)
            try_out(config, datasets[key])


def try_out(config: TrialConfig, dataset: Dataset) -> None:
    """Start a trial on the CPU, and go no further; try plugins' terms. ConfigError, DataError: what of it can't be."""
    import torch

    from laresa.methods import start
    from laresa.term_check import check_terms

    state = torch.random.get_rng_state()
    start((config,), dataset, "cpu")
    check_terms(config, dataset)
    torch.random.set_rng_state(state)

"""Before the first trial: whether all that trials need can be had and fits together; what they share is made."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from laresa.config import TrialConfig
from laresa.errors import NotHereError
from laresa.progress import Told
from sweeps.service.study import Study

if TYPE_CHECKING:
    from laresa.data.dataset import Dataset

log = logging.getLogger("laresa.prepare")
MODEL = (
    *("backbone", "pretrained", "input_size", "image_size", "stem", "dropout", "latent_dim"),
    *("encoder", "dataset", "method"),
)
LOSS = (
    *("subset", "method", "weighting", "encoder", "label_text", "prompt"),
    *("shuffle_labels", "random_labels", "label_noise", "coarse_noise"),
)


def check_trials(study: Study, absent: list[str] | None = None) -> None:
    """Whether what every kind of trial needs can be had, and fits together. ConfigError, DataError: it does not.

    Data sets are decoded, label texts embedded, each once a node; of each model and of each subset the method is
    started on a fold and dropped, so that a backbone, a head or a term that can't be is refused before anything is
    written. absent: where what is not on this machine is told, in place of an error; another may have it.
    """
    from laresa.data import data_key, load

    datasets: dict[tuple[Any, ...], Dataset | None] = {}
    started: set[tuple[Any, ...]] = set()
    for config in _configs(study):
        key = data_key(config)
        if key not in datasets:
            with _telling(absent):
                datasets[key] = None
                datasets[key] = load(config)
        kinds = {
            tuple(config.resolved.get(name) for name in MODEL),
            (config.dataset, *(config.resolved.get(name) for name in LOSS)),
        }
        if (dataset := datasets[key]) is not None and kinds - started:
            started |= kinds
            with _telling(absent):
                try_out(config, dataset)


@contextlib.contextmanager
def _telling(absent: list[str] | None) -> Iterator[None]:
    try:
        yield
    except NotHereError as error:
        if absent is None:
            raise
        absent += [] if str(error) in absent else [str(error)]


def prepare(study: Study, *, here: bool = False) -> dict[str, str]:
    """Once, before the first trial: what groups of trials share. Returns what `shared_images` finds of the folds that
    the study is tested on.
    """
    import torch

    from laresa.data import data_key, load
    from laresa.methods import group_key

    datasets = {data_key(config): load(config) for config in {data_key(c): c for c in _configs(study)}.values()}
    groups = {group: config for config in reversed(_configs(study)) if (group := group_key(config)) is not None}
    if here and not torch.cuda.is_available():  # else its workers do what trials share, where the GPUs are
        for config in groups.values():
            take_shared(config, datasets[data_key(config)])
    found: dict[str, str] = {}
    for cell in {cell.config.dataset: cell for cell in reversed(study.cells)}.values():
        found |= shared_images([datasets[data_key(replicate.of(cell.config))] for replicate in study.replicates])
    return found


def _configs(study: Study) -> list[TrialConfig]:
    """Of all trials that are known, and what each search begins with."""
    searched = [search.replicate.of(search.base) for search in study.searches]
    return [*(trial.config for trial in study.trials()), *searched]


def shared_images(folds: Sequence[Dataset]) -> dict[str, str]:
    """Fingerprint of a test set -> that of the first one with which it shares images, of those that share some.

    A claim about new test sets counts such sets as one. Each pair is warned of by name.
    """
    tested = {data.test_fingerprint: data for data in folds}
    if len(tested) < 2:
        return {}
    first, found = dict[bytes, str](), dict[str, str]()
    for known, data in tested.items():
        seen: dict[str, int] = {}
        own = {hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in data.test.images.numpy()}
        for digest in own:
            if (other := first.setdefault(digest, known)) != known:
                seen[other] = seen.get(other, 0) + 1
        for other, count in seen.items():
            log.warning(
                "test sets overlap: %s and %s share %d images; in a claim about new test sets they count as one",
                tested[other].fold_note,
                data.fold_note,
                count,
            )
            root = found.get(other, other)
            found = {one: root if to == found.get(known, known) else to for one, to in found.items()}
            found |= {other: root, known: root}
    return found


def take_shared(config: TrialConfig, dataset: Dataset) -> None:
    """What a group of trials shares, with all cores, before the first waits for it."""
    import torch

    from laresa.methods import preparation

    if (prepare_group := preparation(config)) is not None:
        prepare_group(config, dataset, torch.device("cpu"), Told(f"features of {config.backbone}"))


def try_out(config: TrialConfig, dataset: Dataset) -> None:
    """Start a trial, and go no further; try plugins' terms. ConfigError, DataError: what of it can't be."""
    import torch

    from laresa import methods
    from laresa.term_check import check_terms

    state = torch.random.get_rng_state()
    methods.try_out(config, dataset)
    check_terms(config, dataset)
    torch.random.set_rng_state(state)

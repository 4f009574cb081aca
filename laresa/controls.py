"""What a configuration says of the texts that its losses see: a control's, or the true ones. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from laresa.errors import ConfigError

if TYPE_CHECKING:
    from laresa.config import TrialConfig


@dataclass(frozen=True)
class Control:
    """How the texts that losses see differ from the true ones; every draw is by `seed`.

    shuffled: none keeps its own text. noise: that share of the classes has another class's. coarse_noise: that share
    has another group's text as its parent's. random: vectors in place of embeddings, one a node.
    """

    seed: int
    shuffled: bool = False
    noise: float = 0.0
    coarse_noise: float = 0.0
    random: bool = False


def control_of(config: TrialConfig) -> Control | None:
    """A configuration's; None where its losses see the true texts."""
    shuffled, random = bool(config.shuffle_labels), bool(config.random_labels)
    noise, coarse = config.label_noise or 0.0, config.coarse_noise or 0.0
    return Control(config.seed, shuffled, noise, coarse, random) if shuffled or random or noise or coarse else None


def check_texts(prompt: str, *, shuffled: bool, noise: float) -> None:
    """ConfigError: a prompt without a place for the name or with several, two controls that are one."""
    if prompt.count("{}") != 1:
        raise ConfigError(f"prompt={prompt!r}: expected one {{}}, where the name stands, as in 'a photo of a {{}}'")
    if shuffled and noise:
        raise ConfigError(
            f"shuffle_labels and label_noise={noise:g}: shuffled labels have no true text left to corrupt; expected one"
        )

"""Head: one trial's model, objective and optimiser on frozen features, and what it has measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from laresa import checkpoint
from laresa.config import TrialConfig
from laresa.controls import control_of
from laresa.data.dataset import Dataset
from laresa.errors import ConfigError
from laresa.features import FeatureConfig
from laresa.fields import Doc
from laresa.labels import LabelEmbeddings, embeddings_of
from laresa.measurement import Measurement
from laresa.methods.parts import base_head, build_optimizer, check_width, set_rates
from laresa.methods.watch import freeze, watched
from laresa.objective import Objective, check_tree
from laresa.seeds import generator
from laresa.terms import term


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(FeatureConfig):
    """Heads on frozen features; `backbone` names the model that gives them, `input_size` the pixels that it sees."""

    head: Annotated[Literal["latent", "linear"], Doc("features -> latent -> logits, or features -> logits")] = "latent"
    latents: Annotated[bool, Doc("keep the test latents of every trial")] = False


OWN = ("head", "latents")  # its fields that are no feature's: heads of a group may differ in them


def heads_config(config: TrialConfig) -> HeadsConfig:
    return HeadsConfig(**config.values(config.method))


class HeadModel(nn.Module):
    """features [N, F] -> (logits, z_ND). Without a latent layer (the linear probe) z is the features."""

    def __init__(self, latent: nn.Module | None, classifier: nn.Module) -> None:
        super().__init__()
        self.latent, self.classifier = latent, classifier

    def forward(self, x_NF: Tensor) -> tuple[Tensor, Tensor]:
        z_ND = x_NF if self.latent is None else self.latent(x_NF)
        return self.classifier(z_ND), z_ND


class Head:
    """A head at its beginning. ConfigError: its terms can't be had of frozen features."""

    def __init__(self, config: TrialConfig, data: Dataset, width: int, device: torch.device) -> None:
        self.config, self.tree, self.device = config, data.taxonomy, device
        self.fields, self.base = heads_config(config), base_head(config)
        _check(config, self.fields)
        check_tree(config.parts, self.tree)
        self.labels: LabelEmbeddings = embeddings_of(config, self.tree)  # the true ones, for metrics
        shown = self.labels if control_of(config) is None else embeddings_of(config, self.tree, shown=True)
        self.model = self._build(width).to(device)
        self.objective = Objective(config, self.tree, shown.levels).to(device)
        if config.latent_dim and self.model.latent is not None:
            check_width(self.objective, config.latent_dim, self.base.outputs(self.tree))
        self.optimizer = build_optimizer(config, self.model, self.objective)
        self.history: list[Measurement] = []
        self.best_epoch, self.best_top1 = 0, -math.inf
        self.best_weights: dict[str, Tensor] = {}

    def _build(self, width: int) -> HeadModel:
        """Layers as torch builds them after manual_seed(seed)."""
        outputs, build = self.base.outputs(self.tree), self.base.build or nn.Linear
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            if self.fields.head == "linear":
                return HeadModel(None, build(width, outputs))
            latent = nn.Linear(width, self.config.latent_dim or self.labels.fine_CD.shape[1])
            return HeadModel(latent, build(latent.out_features, outputs))

    # ------------------------------------------------------------------ an epoch, which its stack trains
    @property
    def number(self) -> int:
        """Of the epoch that comes, from 1."""
        return len(self.history) + 1

    @property
    def watched(self) -> bool:
        """Whether the epoch that comes is one that is looked at."""
        return watched(self.config, self.number)

    @property
    def done(self) -> bool:
        ended = len(self.history)
        return ended >= self.config.epochs or (ended - self.best_epoch >= self.config.patience and ended > 0)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"model": self.model, "objective": self.objective}

    def order(self, count: int) -> Tensor:
        """The order of the samples in the epoch that comes."""
        return torch.randperm(count, generator=generator("cpu", self.config.seed, self.number, "order"))

    def stream(self) -> torch.Generator:
        """The epoch's other random numbers."""
        return generator(self.device, self.config.seed, self.number, "batch")

    def begin_epoch(self) -> None:
        set_rates(self.config, self.optimizer, self.number)
        self.objective.train()
        freeze(self.config, self.objective, self.history)

    def end_epoch(self, measurement: Measurement) -> None:
        """Remember the best weights."""
        self.history.append(measurement)
        if (top1 := measurement.metrics["val/top1"]) > self.best_top1:
            self.best_top1, self.best_epoch = top1, measurement.epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    @torch.no_grad()
    def predict(self, x_NF: Tensor, weights: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """(log p_NC, z_ND, or None without a latent layer), float32. weights: others than those it has now."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits, z_ND = torch.func.functional_call(self.model, dict(weights or self.model.state_dict()), (x_NF,))
        log_p_NC = self.base.log_leaf(logits.float(), self.tree)
        return log_p_NC, None if self.model.latent is None else z_ND.float()

    # ------------------------------------------------------------------ checkpoints
    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, state). The history as one tensor: of 64 heads and 2000 epochs JSON would take seconds."""
        names = sorted({name for measurement in self.history for name in measurement.metrics})
        rows = [[m.metrics.get(name, math.nan) for name in names] + [m.seconds, m.timestamp] for m in self.history]
        tensors = checkpoint.pack({**self.parts, "optimizer": self.optimizer})
        tensors |= {f"best/{name}": value for name, value in self.best_weights.items()}
        tensors["history"] = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(names) + 2)
        return tensors, {"names": names, "best_epoch": self.best_epoch, "best_top1": self.best_top1}

    def unpack(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        checkpoint.unpack(tensors, {**self.parts, "optimizer": self.optimizer})
        self.best_weights = {n: t.to(self.device) for n, t in checkpoint.under("best/", tensors).items()}
        self.best_epoch, self.best_top1 = state["best_epoch"], state["best_top1"]
        self.history = [
            Measurement(epoch, dict(zip(state["names"], values, strict=True)), seconds, int(timestamp))
            for epoch, (*values, seconds, timestamp) in enumerate(tensors["history"].tolist(), 1)
        ]


def _check(config: TrialConfig, fields: HeadsConfig) -> None:
    two = [name for name in config.parts if term(name).views > 1]
    if two:
        raise ConfigError(
            f"subset {config.subset!r}: {two[0]} compares two augmentations of an image, and frozen features have one: "
            "expected terms of one view, or method=end_to_end"
        )
    if fields.head == "linear" and len(config.parts) > 1:
        raise ConfigError(
            f"{config.method}.head=linear with subset {config.subset!r}: what stands beside {config.parts[0]} needs a "
            "latent to act on: expected head=latent, or the base term alone"
        )

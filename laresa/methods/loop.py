"""Loop: what every training loop of one trial shares. Data, random streams, history, checkpoints, the last measurement.

    class Mine(Loop):
        def __init__(self, config, data, device, *, hidden: int = 64):
            super().__init__(config, data, device)
            self.model = ...; self.optimizer = ...

        def train_epoch(self, number):
            for images, y_N in self.batches(number): ...
            return {"train/loss": ...}

        def predict(self, images):
            return self.model(images)  # logits_NC, or (log p_NC, z_ND)

    METHODS = {"mine": Mine}

All randomness of an epoch derives from (seed, epoch), so a checkpoint holds no generator state and a resumed run draws
what the undisturbed one would have drawn. On a CPU with the same number of threads the remaining history and the final
weights are equal to the bit; on a GPU up to its nondeterministic kernels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from laresa import checkpoint
from laresa.config import TrialConfig
from laresa.data.augment import augment, normalise
from laresa.data.corruptions import Corrupted
from laresa.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, Split
from laresa.errors import CheckpointError, ConfigError
from laresa.fields import Doc, Range
from laresa.labels import LabelEmbeddings, embeddings_of
from laresa.measurement import Measurement
from laresa.methods import Result
from laresa.methods.measure import Judged, latents_of, measure, measure_corrupted
from laresa.methods.watch import SAMPLES, latent_metrics, watched
from laresa.metrics import evaluate_own
from laresa.seeds import derive_seed, seed_everything
from laresa.seeds import generator as generator_for

EVALUATION_BATCH = 512
ON_DEVICE_BYTES = 4 << 30  # a data set up to this size lives on the accelerator


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast, with what arithmetic. Defaults are the LARESA paper's (App. A) where it states one."""

    method: Annotated[str, Doc("how a trial trains: end_to_end, or a plugin's")] = "end_to_end"
    optimizer: Annotated[str, Doc("adam, adamw, sgd, or a plugin's")] = "adam"
    lr: Annotated[float, Gt(0), Range(1e-4, 1e-2, log=True), Doc("learning rate")] = 1e-3
    weight_decay: Annotated[float, Ge(0), Range(1e-6, 1e-2, log=True), Doc("of the model's parameters")] = 0.0
    schedule: Annotated[str, Doc("learning rate over the epochs: none, cosine, warmup_cosine, or a plugin's")] = "none"
    batch_size: Annotated[int, Gt(0), Doc("images a step, at most")] = 128
    epochs: Annotated[int, Gt(0), Doc("at most so many")] = 1000
    patience: Annotated[int, Gt(0), Doc("epochs without a better validation top-1 before training stops")] = 100
    seed: Annotated[int, Ge(0), Le(2**63 - 1), Doc("of everything random; --seeds sets it")] = 42
    watch_every: Annotated[int, Gt(0), Doc("epochs between looks at the latents and at the terms' gradients")] = 1
    precision: Annotated[Literal["fp32", "bf16"], Doc("bf16: autocast")] = "fp32"
    channels_last: Annotated[bool, Doc("memory layout of images")] = False


@dataclass(frozen=True)
class Sample:
    """A training batch on the device: normalised images (and a second view of them), classes, shares where mixed."""

    images: Tensor
    y_N: Tensor
    generator: torch.Generator
    target_NC: Tensor | None = None
    view: Tensor | None = None


class Loop:
    """One trial's training. A subclass sets `model`, writes `train_epoch` and `predict`; see the module."""

    model: nn.Module
    labels: LabelEmbeddings | None = None  # the true ones, for the metrics of latents

    def __init__(self, config: TrialConfig, data: Dataset, device: torch.device | str) -> None:
        self.config, self.data, self.device = config, data, torch.device(device)
        seed_everything(config.seed)
        self.history: list[Measurement] = []
        self.best_epoch, self.best_top1 = 0, -math.inf
        self.best_weights: dict[str, Tensor] = {}
        self._seen: Tensor | None = None  # validation latents of the last epoch
        fixed = {"none": ((0.0,) * 3, (1.0,) * 3), "imagenet": (IMAGENET_MEAN, IMAGENET_STD)}
        self.mean: Sequence[float]
        self.std: Sequence[float]
        self.mean, self.std = fixed.get(config.normalisation or "auto", (data.mean, data.std))
        self.input_size: int = config.input_size or data.train.images.shape[-1]
        self._train, self._val, self._test = (self._place(split) for split in (data.train, data.val, data.test))

    # ------------------------------------------------------------------ what a subclass writes
    def train_epoch(self, number: int) -> Mapping[str, float]:
        """Train epoch `number` (from 1); metrics by their names in MLflow, "train/loss" among them."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Of normalised images: logits_NC, or (logits_NC, z_ND) where latents are to be measured.

        One a node (N x V) in place of one a class, where an internal node may be the answer (laresa.metrics.evaluate).
        """
        raise NotImplementedError

    def last_metrics(self) -> dict[str, float]:
        """What is measured once more, at the end."""
        return {}

    # ------------------------------------------------------------------ Method, for one trial
    @property
    def finished(self) -> bool:
        done = len(self.history)
        return done >= self.config.epochs or (done - self.best_epoch >= self.config.patience and done > 0)

    def epoch(self) -> Measurement:
        """Train one epoch, validate, remember the best weights."""
        started, number = time.perf_counter(), len(self.history) + 1
        seed_everything(derive_seed(self.config.seed, number, "network"))
        self.model.train()
        metrics = {name: float(value) for name, value in self.train_epoch(number).items()}
        logits_NC, z_ND = self.forward(self._val)
        y_N, self._seen = self._val.labels.to(self.device), z_ND
        if number == 1:
            evaluate_own(logits_NC, z_ND, y_N, self.data.taxonomy)  # one that fails fails now, not after the last epoch
        top1 = (logits_NC.argmax(1) == y_N).double().mean().item()
        if z_ND is not None and watched(self.config, number):
            metrics |= latent_metrics(z_ND, y_N, self.data.taxonomy)
        metrics |= {"val/top1": top1, "val/loss": nn.functional.cross_entropy(logits_NC, y_N).item()}
        measurement = Measurement(number, metrics, time.perf_counter() - started, int(time.time() * 1000))
        self.history.append(measurement)
        if top1 > self.best_top1:
            self.best_top1, self.best_epoch = top1, number
            self.best_weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        return measurement

    def result(self) -> Result:
        """Load the best epoch's weights and measure the test split, once; validation too: choices are made there."""
        last = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.best_weights)
        tree = self.data.taxonomy
        val, test = self._judged(self._val), self._judged(self._test)
        metrics = measure(val, test, tree, self.labels, self.history, self.best_epoch)
        if self.config.corruptions:
            metrics |= measure_corrupted(self._corrupted, self.data.test.labels)
        weights = {name: value.contiguous() for name, value in self.best_weights.items()}  # as files want them
        latents = None if test[1] is None else latents_of(test[1], test[2], tree)
        history = tuple(self.history)
        return Result(self.config, history, self.best_epoch, metrics | self.last_metrics(), weights, latents, last)

    def snapshot(self) -> Mapping[str, np.ndarray] | None:
        """Validation latents of the last epoch, evenly SAMPLES of them at most, in float16; None: there are none."""
        if self._seen is None:
            return None
        every = -(-len(self._seen) // SAMPLES)
        z_ND, y_N = self._seen[::every].cpu(), self._val.labels[::every].cpu()
        small = z_ND.abs().max() < torch.finfo(torch.float16).max
        return latents_of(z_ND.half() if small else z_ND, y_N, self.data.taxonomy)

    def _judged(self, split: Split) -> Judged:
        logits_NC, z_ND = self.forward(split)
        return logits_NC.cpu(), None if z_ND is None else z_ND.cpu(), split.labels.cpu()

    def _corrupted(self, kind: str, strength: int) -> Tensor:
        return self._forward(Corrupted(self.data.test.images, kind, strength))[0]

    # ------------------------------------------------------------------ data
    def batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, y_N) of an epoch, normalised, augmented as config.augment says, on the device."""
        for sample in self.samples(number):
            yield sample.images, sample.y_N

    def samples(self, number: int, views: int = 1) -> Iterator[Sample]:
        """Every image once, in batches of nearly equal size (none of one image alone, which batch norm can't take)."""
        config, split = self.config, self._train
        order = torch.randperm(len(split.labels), generator=generator_for("cpu", config.seed, number, "order"))
        generator = generator_for(self.device, config.seed, number, "batch")
        fields = {name: config.values(name) for name in config.augmentations}
        for index in order.tensor_split(math.ceil(len(order) / config.batch_size)):
            index = index.to(split.images.device)
            raw = split.images[index].to(self.device, non_blocking=True)
            y_N = split.labels[index].to(self.device, non_blocking=True)
            images, target_NC = augment(raw, y_N, fields, generator, classes=self.data.taxonomy.leaves)
            view = None
            if views > 1:
                if target_NC is not None:
                    raise ConfigError(f"augment={config.augment!r} mixes images: a term with two views can't use it")
                view, _ = augment(raw, y_N, fields, generator, classes=self.data.taxonomy.leaves)
                view = self.prepared(view)
            yield Sample(self.prepared(images), y_N, generator, target_NC, view)

    def prepared(self, images: Tensor) -> Tensor:
        """As the network sees them: normalised, resized, in its memory layout."""
        images = normalise(images, self.mean, self.std)
        if images.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last) if self.config.channels_last else images

    def forward(self, split: Split) -> tuple[Tensor, Tensor | None]:
        """(logits_NC, z_ND or None) of a whole split, in float32 on the device."""
        return self._forward(split.images)

    @torch.no_grad()
    def _forward(self, images: Tensor | Corrupted) -> tuple[Tensor, Tensor | None]:
        self.model.eval()
        logits, latents = [], []
        for start in range(0, len(images), EVALUATION_BATCH):
            batch = images[start : start + EVALUATION_BATCH].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                found = self.predict(self.prepared(batch))
            logits_NC, z_ND = found if isinstance(found, tuple) else (found, None)
            logits.append(logits_NC.float())
            latents += [] if z_ND is None else [z_ND.float()]
        logits_NC, classes = torch.cat(logits), self.data.taxonomy.leaves
        if logits_NC.shape[1:] not in ((classes,), (len(self.data.taxonomy.parents),)):
            raise ConfigError(
                f"method={self.config.method!r}: predict gave {tuple(logits_NC.shape)}: expected [N, {classes}], "
                "a logit a class, or one a node of the tree"
            )
        return logits_NC, torch.cat(latents) if latents else None

    def _place(self, split: Split) -> Split:
        """The split on the device if it is small enough, else as it is (a memory map), moved batch by batch."""
        if self.device.type == "cpu" or split.images.nbytes > ON_DEVICE_BYTES:
            return split
        return Split(split.images.to(self.device), split.labels.to(self.device))

    # ------------------------------------------------------------------ checkpoints
    def save(self, path: Path) -> None:
        """Modules and optimisers among the attributes, the best weights and the history, in one file.

        ConfigError: an attribute is a scheduler of torch's, which a resumed run would begin anew.
        """
        for name, value in vars(self).items():
            if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
                raise ConfigError(
                    f"method={self.config.method!r}: {name} is a {type(value).__name__}, which no checkpoint keeps: "
                    "set the optimizer's lr from the epoch's number instead"
                )
        tensors = checkpoint.pack(self._stateful())
        tensors |= {f"best/{name}": value for name, value in self.best_weights.items()}
        checkpoint.save(path, tensors, self.state())

    def state(self) -> dict[str, Any]:
        return {
            "signature": self.config.signature(),
            "fingerprint": self.data.fingerprint,
            "best_epoch": self.best_epoch,
            "best_top1": self.best_top1,
            "history": [measurement.to_dict() for measurement in self.history],
        }

    def restore(self, path: Path) -> None:
        """Continue from `path`. CheckpointError if it belongs to another configuration or other data."""
        tensors, state = checkpoint.load(path)
        for key, own in (("signature", self.config.signature()), ("fingerprint", self.data.fingerprint)):
            if state[key] != own:
                raise CheckpointError(f"checkpoint {path} has {key} {state[key]!r}: this trial has {own!r}")
        checkpoint.unpack(tensors, self._stateful())
        self.best_weights = checkpoint.under("best/", tensors)
        self.best_epoch, self.best_top1 = state["best_epoch"], state["best_top1"]
        self.history = [Measurement.from_dict(fields) for fields in state["history"]]

    def _stateful(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        kinds = (nn.Module, torch.optim.Optimizer)
        return {name: value for name, value in vars(self).items() if isinstance(value, kinds)}

    def text(self, *, shown: bool = False) -> LabelEmbeddings:
        """Embeddings of the classes' texts, the true ones; shown: as the losses see them, which a control changes."""
        return embeddings_of(self.config, self.data.taxonomy, shown=shown)

"""train(config): one trial, an epoch at a time, resumable to the bit.

All randomness of an epoch derives from (seed, epoch), so a checkpoint holds no generator state and a resumed run
draws what the undisturbed one would have drawn. On a CPU with the same number of threads the remaining history and the
final weights are equal to the bit; on a GPU up to its nondeterministic kernels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laresa import checkpoint
from laresa.config import TrialConfig
from laresa.data import Dataset, Split, load
from laresa.data.augment import augment, normalise
from laresa.errors import CheckpointError
from laresa.labels import LabelEmbeddings, label_embeddings
from laresa.measurement import Measurement
from laresa.metrics import evaluate
from laresa.model import LatentClassifier, build_model, default_device, input_statistics
from laresa.objective import Objective, check_finite
from laresa.seeds import derive_seed, seed_everything
from laresa.seeds import generator as generator_for

EVALUATION_BATCH = 512
ON_DEVICE_BYTES = 4 << 30  # a data set up to this size lives on the accelerator


@dataclass(frozen=True)
class Result:
    """What a finished trial hands over.

    metrics: "test/...", measured once, from the weights of best_epoch, and "best/val/..." of the same weights;
        "best_epoch", "collapse_step".
    weights: state dict of the LatentClassifier at best_epoch, on the CPU.
    latents: test latents z_ND with y_N, parent_C and the names, as stored in latents.npz.
    """

    config: TrialConfig
    history: tuple[Measurement, ...]
    best_epoch: int
    metrics: Mapping[str, float]
    weights: Mapping[str, Tensor]
    latents: Mapping[str, np.ndarray]


def train(
    config: TrialConfig,
    *,
    dataset: Dataset | None = None,
    device: str | torch.device | None = None,
    save_to: Path | None = None,
    resume_from: Path | None = None,
) -> Generator[Measurement, None, Result]:
    """Train `config`; yields a Measurement after each epoch and returns the Result (the value of `yield from`).

    dataset: loaded already; else the config's own. device: default CUDA where there is one.
    save_to: checkpoint file, written after every epoch before its Measurement is yielded.
    resume_from: checkpoint to go on from; its epochs are not yielded again, they stand in Result.history.
    Raises NonFiniteLossError (which step, which term), CheckpointError, ConfigError, DataError.
    """
    trainer = Trainer(config, dataset=dataset, device=device)
    if resume_from is not None:
        trainer.restore(resume_from)
    while not trainer.finished:
        measurement = trainer.epoch()
        if save_to is not None:
            trainer.save(save_to)
        yield measurement
    return trainer.result()


def fit(config: TrialConfig, **options: Any) -> Result:
    """`train` to its end."""
    steps = train(config, **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


class Trainer:
    """The state of one trial: model, objective, optimiser, history, best weights."""

    def __init__(self, config: TrialConfig, *, dataset: Dataset | None, device: str | torch.device | None) -> None:
        self.config = config
        self.device = torch.device(device or default_device())
        seed_everything(config.seed)
        self.dataset = dataset or load(config)
        self.labels = _labels(config, self.dataset, shuffled=False)
        self.model = self._build_model()
        self.objective = self._build_objective()
        self.optimizer = self._build_optimizer()
        self.history: list[Measurement] = []
        self.best_epoch, self.best_top1 = 0, -math.inf
        self.best_weights: dict[str, Tensor] = {}
        self._train, self._val, self._test = (
            self._place(split) for split in (self.dataset.train, self.dataset.val, self.dataset.test)
        )

    # ------------------------------------------------------------------ construction
    def _build_model(self) -> LatentClassifier:
        config, data = self.config, self.dataset
        size = config.input_size or data.train.images.shape[-1]
        model = build_model(
            config.backbone,
            pretrained=config.pretrained,
            input_size=size,
            latent_dim=config.latent_dim or self.labels.fine_CD.shape[1],
            classes=len(data.taxonomy.names),
        )
        self.input_size = size
        self.mean: Sequence[float] = data.mean
        self.std: Sequence[float] = data.std
        if config.pretrained:
            self.mean, self.std = input_statistics(model)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        model = model.to(self.device)
        return model.to(memory_format=layout)

    def _build_objective(self) -> Objective:
        labels = _labels(self.config, self.dataset, shuffled=True) if self.config.shuffle_labels else self.labels
        return Objective(self.config, labels.fine_CD, labels.coarse_CD).to(self.device)

    def _build_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters()), "lr": config.lr}]
        if balance := [p for p in self.objective.parameters() if p.requires_grad]:
            groups.append({"params": balance, "lr": config.alpha_lr or config.lr, "weight_decay": 0.0})
        optimizer = torch.optim.Adam(groups, weight_decay=config.weight_decay, fused=True)
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
        return optimizer

    def _place(self, split: Split) -> Split:
        """The split on the device if it is small enough, else as it is (a memory map), moved batch by batch."""
        if self.device.type == "cpu" or split.images.nbytes > ON_DEVICE_BYTES:
            return split
        return Split(split.images.to(self.device), split.labels.to(self.device))

    # ------------------------------------------------------------------ training
    @property
    def finished(self) -> bool:
        done = len(self.history)
        return done >= self.config.epochs or (done - self.best_epoch >= self.config.patience > 0 and done > 0)

    def epoch(self) -> Measurement:
        """Train one epoch, validate, remember the best weights."""
        started, number = time.perf_counter(), len(self.history) + 1
        metrics = self._train_epoch(number)
        logits_NC, _ = self._forward(self._val)
        top1 = (logits_NC.argmax(1) == self._val.labels.to(self.device)).double().mean().item()
        metrics["val/top1"] = top1
        metrics["val/loss"] = nn.functional.cross_entropy(logits_NC, self._val.labels.to(self.device)).item()
        measurement = Measurement(number, metrics, time.perf_counter() - started, int(time.time() * 1000))
        self.history.append(measurement)
        if top1 > self.best_top1:
            self.best_top1, self.best_epoch = top1, number
            self.best_weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        return measurement

    def _train_epoch(self, number: int) -> dict[str, float]:
        config = self.config
        seed_everything(derive_seed(config.seed, number, "network"))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * _schedule(config.schedule, (number - 1) / config.epochs)
        self.model.train()
        self.objective.set_epoch(number)
        losses: list[Tensor] = []
        for images, labels, generator in self._batches(number):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                logits_NC, z_ND = self.model(images)
            output = self.objective(logits_NC, z_ND, labels, generator)
            self.optimizer.zero_grad(set_to_none=True)
            output.total.backward()
            self.optimizer.step()
            losses.append(torch.cat([output.total.detach().reshape(1), output.terms_T.detach()]))
        return self._epoch_metrics(torch.stack(losses).double().cpu(), number)

    def _epoch_metrics(self, losses_ST: Tensor, number: int) -> dict[str, float]:
        """Means over the epoch's S steps of (total, each part): the one transfer from the device in an epoch."""
        names = ("total", *self.config.parts)
        check_finite(losses_ST, names, number)
        means = dict(zip(names, losses_ST.mean(0).tolist(), strict=True))
        metrics = {"train/loss": means.pop("total")} | {f"train/loss_{part}": value for part, value in means.items()}
        metrics |= {f"weight/{term}": value for term, value in self.objective.weights().items()}
        if len(self.config.terms) > 1:
            metrics["weight/entropy"] = self.objective.entropy()
        if beta := self.objective.beta():
            metrics["beta/fine"], metrics["beta/coarse"] = beta
        return metrics

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
        """Every image once, in batches of nearly equal size (none of one image alone, which batch norm can't take)."""
        config, split = self.config, self._train
        order = torch.randperm(len(split.labels), generator=generator_for("cpu", config.seed, number, "order"))
        generator = generator_for(self.device, config.seed, number, "batch")
        for index in order.tensor_split(math.ceil(len(order) / config.batch_size)):
            index = index.to(split.images.device)
            images = split.images[index].to(self.device, non_blocking=True)
            labels = split.labels[index].to(self.device, non_blocking=True)
            yield self._prepare(augment(images, config.augmentations, generator)), labels, generator

    def _prepare(self, images_u8: Tensor) -> Tensor:
        images = normalise(images_u8, self.mean, self.std)
        if images.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last) if self.config.channels_last else images

    @torch.no_grad()
    def _forward(self, split: Split) -> tuple[Tensor, Tensor]:
        """(logits_NC, z_ND) of a whole split, in float32 on the device."""
        self.model.eval()
        outputs = []
        for images in torch.split(split.images, EVALUATION_BATCH):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                logits, z = self.model(self._prepare(images.to(self.device)))
            outputs.append((logits.float(), z.float()))
        logits_NC, z_ND = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        return logits_NC, z_ND

    # ------------------------------------------------------------------ the end
    def result(self) -> Result:
        """Load the best epoch's weights and measure the test split, once; validation too: choices are made there."""
        self.model.load_state_dict(self.best_weights)
        tree, metrics = self.dataset.taxonomy, dict[str, float]()
        for prefix, split in (("best/val", self._val), ("test", self._test)):
            logits_NC, z_ND = (part.cpu() for part in self._forward(split))
            y_N = split.labels.cpu()
            scores = evaluate(logits_NC, z_ND, y_N, tree, self.labels)
            metrics |= {f"{prefix}/{name}": value for name, value in scores.items()}
        best = self.history[self.best_epoch - 1].metrics  # as the epoch itself saw it
        metrics |= {f"best/{name}": value for name, value in best.items() if name.startswith("val/")}
        metrics["best_epoch"] = float(self.best_epoch)
        metrics["seconds/train"] = sum(measurement.seconds for measurement in self.history)
        if (step := self.objective.collapse_step()) is not None:
            metrics["collapse_step"] = float(step)
        latents = {
            "z_ND": z_ND.numpy(),
            "y_N": y_N.numpy(),
            "parent_C": np.asarray(tree.parent_C),
            "fine_names": np.array(tree.names),
            "coarse_names": np.array(tree.coarse_names),
        }
        weights = {name: value.contiguous() for name, value in self.best_weights.items()}  # as files want them
        return Result(self.config, tuple(self.history), self.best_epoch, metrics, weights, latents)

    # ------------------------------------------------------------------ checkpoints
    def save(self, path: Path) -> None:
        """Everything a resumed run needs, in one file (see laresa.checkpoint)."""
        tensors = checkpoint.pack(model=self.model, objective=self.objective, optimizer=self.optimizer)
        tensors |= {f"best/{name}": value for name, value in self.best_weights.items()}
        checkpoint.save(path, tensors, self.state())

    def state(self) -> dict[str, Any]:
        return {
            "signature": self.config.signature(),
            "fingerprint": self.dataset.fingerprint,
            "best_epoch": self.best_epoch,
            "best_top1": self.best_top1,
            "history": [measurement.to_dict() for measurement in self.history],
        }

    def restore(self, path: Path) -> None:
        """Continue from `path`. CheckpointError if it belongs to another configuration or other data."""
        tensors, state = checkpoint.load(path)
        for key, own in (("signature", self.config.signature()), ("fingerprint", self.dataset.fingerprint)):
            if state[key] != own:
                raise CheckpointError(f"checkpoint {path} has {key} {state[key]!r}: this trial has {own!r}")
        checkpoint.unpack(tensors, model=self.model, objective=self.objective, optimizer=self.optimizer)
        self.best_weights = checkpoint.under("best/", tensors)
        self.best_epoch, self.best_top1 = state["best_epoch"], state["best_top1"]
        self.history = [Measurement.from_dict(fields) for fields in state["history"]]


def _schedule(name: str, done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done)) if name == "cosine" else 1.0


def _labels(config: TrialConfig, dataset: Dataset, *, shuffled: bool) -> LabelEmbeddings:
    return label_embeddings(
        dataset.taxonomy,
        encoder=config.encoder,
        label_text=config.label_text,
        shuffle_seed=config.seed if shuffled else None,
    )

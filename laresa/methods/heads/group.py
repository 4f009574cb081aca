"""Heads: a group of trials on the features of one fold, as many at once as fit, the others in turn."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from laresa import checkpoint
from laresa.config import TrialConfig
from laresa.data import Dataset, Split, data_key
from laresa.errors import CheckpointError, ConfigError, NonFiniteLossError
from laresa.features import Features, features_of, width_of
from laresa.measurement import Measurement
from laresa.methods import AT_ONCE, Result
from laresa.methods.heads.head import OWN, Head, HeadsConfig, heads_config
from laresa.methods.heads.stack import Stack, stack_key
from laresa.methods.measure import latents_of, measure, measure_corrupted
from laresa.methods.parts import epoch_metrics
from laresa.methods.watch import gradient_shares, latent_metrics
from laresa.metrics import evaluate_own
from laresa.seeds import seed_everything

log = logging.getLogger(__name__)
SHARED = ("backbone", "input_size", "batch_size", "precision", "corruptions")


class Heads:
    """Method: heads on frozen features. Its trials share what `group_key` names."""

    fields = HeadsConfig
    # The backbone is frozen, and sees each image as it is.
    unused = ("pretrained", "channels_last", "stem", "dropout", "augment", "normalisation")

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        data: Dataset,
        device: torch.device,
        at_once: int = AT_ONCE,
        *,
        features: Features | None = None,
    ) -> None:
        """at_once: heads that are trained together; the others wait for their places. features: known already."""
        first = configs[0]
        self.configs, self.data, self.device, self.at_once = tuple(configs), data, device, at_once
        seed_everything(first.seed)  # deterministic kernels; nothing is drawn from the global streams
        self.features = self.prepare(first, data, device) if features is None else features
        self._x = {name: rows.to(device) for name, rows in self._rows().items()}
        self._y = {name: split.labels.to(device) for name, split in self._splits().items()}
        self._heads: dict[int, Head] = {}  # in training, by their place in the group
        self._queue = deque(range(len(configs)))
        self._resumed: dict[int, Head] = {}  # begun in an earlier run, among those that wait
        self._ended: dict[int, Head] = {}  # done, not measured yet
        self.failures: dict[int, Exception] = {}
        self._histories: list[list[Measurement]] = [[] for _ in configs]
        self._stacks: list[Stack] | None = None

    @staticmethod
    def group_key(config: TrialConfig) -> str:
        """Data, features and batch size: what their products share."""
        features = {name: value for name, value in asdict(heads_config(config)).items() if name not in OWN}
        return json.dumps([data_key(config), [getattr(config, name) for name in SHARED], features], default=str)

    @staticmethod
    def prepare(
        config: TrialConfig, data: Dataset, device: torch.device, progress: Callable[[int, int], None] | None = None
    ) -> Features:
        """Features of the fold's images, extracted on `device` where they are not kept yet."""
        fields = heads_config(config)
        return features_of(
            data,
            config.backbone,
            fields,
            size=config.input_size,
            device=device,
            progress=progress,
            corruptions=bool(config.corruptions),
        )

    @staticmethod
    def try_out(config: TrialConfig, data: Dataset) -> None:
        """Load the network and build the head on the width that it gives."""
        fields = heads_config(config)
        width = fields.pca or width_of(config.backbone, fields.pool, config.input_size)
        Head(config, data, width, torch.device("cpu"))

    def _splits(self) -> dict[str, Split]:
        return {"train": self.data.train, "val": self.data.val, "test": self.data.test}

    def _rows(self) -> dict[str, Tensor]:
        found = {"train": self.features.train_NF, "val": self.features.val_NF, "test": self.features.test_NF}
        for name, split in self._splits().items():
            if len(found[name]) != len(split):
                raise ConfigError(
                    f"features {self.features.key} have {len(found[name])} rows for the {name} part of "
                    f"{self.data.name}: expected {len(split)}, one an image"
                )
        return found

    # ------------------------------------------------------------------ Method
    @property
    def done(self) -> Sequence[bool]:
        return [index not in self._heads and index not in self._queue for index in range(len(self.configs))]

    @property
    def histories(self) -> Sequence[Sequence[Measurement]]:
        return self._histories

    def epoch(self) -> Sequence[Measurement | None]:
        """One epoch of every head that has a place; those that end leave their stack, and others take their places."""
        self._refill()
        measured: list[Measurement | None] = [None] * len(self.configs)
        places = {id(head): index for index, head in self._heads.items()}
        for stack in self._stacked():
            for head, found in self._epoch_of(stack):
                index = places[id(head)]
                if isinstance(found, Exception):
                    self.failures[index] = found
                else:
                    measured[index] = found
                if isinstance(found, Exception):
                    self._leave(index)
                elif head.done:
                    self._ended[index] = head
                    self._leave(index)
        return measured

    def stop(self, index: int) -> None:
        if index in self._queue:
            self._queue.remove(index)
            self._resumed.pop(index, None)
        if index in self._heads:
            self._leave(index)

    def result(self, index: int) -> Result:
        head = self._ended.pop(index)
        weights = {name: value.cpu().contiguous() for name, value in head.best_weights.items()}
        found = {}
        for name in ("val", "test"):
            log_p_NC, z_ND = head.predict(self._x[name], head.best_weights)
            found[name] = log_p_NC.cpu(), None if z_ND is None else z_ND.cpu(), self._y[name].cpu()
        metrics = measure(found["val"], found["test"], head.tree, head.labels, head.history, head.best_epoch)
        if head.config.corruptions:
            metrics |= measure_corrupted(partial(self._corrupted, head), self._y["test"])
        if (step := head.objective.collapse_step()) is not None:
            metrics["collapse_step"] = float(step)
        z_ND = found["test"][1]
        latents = latents_of(z_ND, found["test"][2], head.tree) if z_ND is not None and head.fields.latents else None
        return Result(head.config, tuple(head.history), head.best_epoch, metrics, weights, latents)

    def _corrupted(self, head: Head, kind: str, strength: int) -> Tensor:
        """Of one head: these rows are 25 times the test part, and on the device only while they are used."""
        return head.predict(self.features.corrupted[kind, strength].to(self.device), head.best_weights)[0]

    # ------------------------------------------------------------------ who is in
    def _head(self, index: int) -> Head:
        head = Head(self.configs[index], self.data, self._x["train"].shape[1], self.device)
        self._histories[index] = head.history
        return head

    def _refill(self) -> None:
        while self._queue and len(self._heads) < self.at_once:
            index = self._queue.popleft()
            self._heads[index] = self._resumed.pop(index) if index in self._resumed else self._head(index)
            self._stacks = None

    def _leave(self, index: int) -> None:
        del self._heads[index]
        self._stacks = None

    def _stacked(self) -> list[Stack]:
        if self._stacks is None:
            together: dict[str, list[Head]] = {}
            for _, head in sorted(self._heads.items()):
                together.setdefault(stack_key(head.config), []).append(head)
            self._stacks = [Stack(heads) for heads in together.values()]
        return self._stacks

    # ------------------------------------------------------------------ an epoch of a stack
    def _epoch_of(self, stack: Stack) -> Iterator[tuple[Head, Measurement | Exception]]:
        started, heads = time.perf_counter(), stack.heads
        losses, shares = self._train(stack)
        scores = self._validate(stack)
        seconds, now = (time.perf_counter() - started) / len(heads), int(time.time() * 1000)
        for k, head in enumerate(heads):
            try:
                metrics = epoch_metrics(head.objective, losses[k], head.number)
            except NonFiniteLossError as error:
                yield head, error
                continue
            measurement = Measurement(head.number, {**metrics, **shares[k], **scores[k]}, seconds, now)
            head.end_epoch(measurement)
            yield head, measurement

    def _train(self, stack: Stack) -> tuple[Tensor, list[dict[str, float]]]:
        """Losses of every step, K x S x (1 + T), on the CPU; each head's shares of the gradient at the first."""
        x_NF, y_N = self._x["train"], self._y["train"]
        count, size = len(y_N), stack.heads[0].config.batch_size
        for head in stack.heads:
            head.begin_epoch()
        order_KN = torch.stack([head.order(count) for head in stack.heads]).to(self.device)
        streams = [head.stream() for head in stack.heads]
        watch = any(head.watched for head in stack.heads)
        losses: list[Tensor] = []
        shares = [dict[str, float]() for _ in stack.heads]
        for index_KN in order_KN.tensor_split(-(-count // size), dim=1):
            loss_KT, norm_KT = stack.step(x_NF[index_KN], y_N[index_KN], streams, watch=watch and not losses)
            for k, head in enumerate(stack.heads):
                if norm_KT is not None and head.watched:
                    shares[k] = gradient_shares(head.objective, loss_KT[k, 1:], norm_KT[k])
            losses.append(loss_KT)
        return torch.stack(losses, 1).double().cpu(), shares

    def _validate(self, stack: Stack) -> list[dict[str, float]]:
        """Each head's metrics on validation."""
        y_N, scores, looks = self._y["val"], [], list[dict[str, float]]()
        for head in stack.heads:
            log_p_NC, z_ND = head.predict(self._x["val"])
            if head.number == 1:
                evaluate_own(log_p_NC, z_ND, y_N, head.tree)  # one that fails fails now, not after the last epoch
            top1 = (log_p_NC.argmax(1) == y_N).double().mean()
            scores.append(torch.stack((top1, nn.functional.cross_entropy(log_p_NC, y_N).double())))
            looks.append(latent_metrics(z_ND, y_N, head.tree) if z_ND is not None and head.watched else {})
        return [
            {"val/top1": top1, "val/loss": loss, **look}
            for (top1, loss), look in zip(torch.stack(scores).tolist(), looks, strict=True)
        ]

    # ------------------------------------------------------------------ checkpoints
    def save(self, path: Path) -> None:
        """What has begun; who is done has a result, who waits has nothing yet."""
        tensors, states = dict[str, Tensor](), dict[str, Any]()
        for index, head in {**self._heads, **self._ended, **self._resumed}.items():
            signature = self.configs[index].signature()
            own, states[signature] = head.pack()
            tensors |= {f"{signature}/{name}": value for name, value in own.items()}
        checkpoint.save(path, tensors, {**self._identity(), "heads": states})

    def _identity(self) -> dict[str, str]:
        return {"fingerprint": self.data.fingerprint, "features": self.features.key}

    def restore(self, path: Path, indices: Collection[int]) -> None:
        """They come before those that never began; one that had ended ends again, without an epoch."""
        tensors, state = checkpoint.load(path)
        for key, own in self._identity().items():
            if state.get(key) != own:
                raise CheckpointError(f"checkpoint {path} has {key} {state.get(key)!r}: this group has {own!r}")
        for index in indices:
            signature = self.configs[index].signature()
            if signature not in state["heads"]:
                continue
            head = self._head(index)
            head.unpack(checkpoint.under(f"{signature}/", tensors), state["heads"][signature])
            self._histories[index] = head.history
            if head.done:
                self._queue.remove(index)
                self._ended[index] = head
            else:
                self._resumed[index] = head
        self._queue = deque(sorted(self._queue, key=lambda index: index not in self._resumed))

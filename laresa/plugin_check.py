"""`laresa plugin check`: everything a plugin brings, tried where it can be tried in seconds, a line a check."""

from __future__ import annotations

import argparse
import inspect
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from laresa.config import TrialConfig, component_fields
from laresa.data import load
from laresa.data.augment import augment
from laresa.data.dataset import Dataset, make_dataset
from laresa.methods import start
from laresa.metrics import Metric
from laresa.model import build_model
from laresa.objective import Objective
from laresa.plugins import Plugin, component, module_of
from laresa.taxonomy import Taxonomy
from laresa.term_check import GROUPS, Finding, check_term, tried
from laresa.terms import groups
from laresa.weighting import rule

SIZE = 16  # pixels of the pictures that are drawn
PARTS = 3  # terms under a weighting


def check_plugin(plugin: Plugin) -> Iterator[Finding]:
    """What `laresa plugin check` prints, in the order of the plugin's dicts."""
    for kind, names in plugin.names.items():
        for name in names:
            if kind == "TERMS":
                yield from check_term(name)
                continue
            label = f"{kind.lower().removesuffix('s').replace('_', ' ')} {name}"
            for check, function in CHECKS[kind].items():
                wrong = tried(function, name)
                yield Finding(label, check, wrong)
                if wrong:
                    break  # what comes after would say the same once more
    module = module_of(plugin)
    if hasattr(module, "build"):
        yield Finding(f"study {plugin.path.name}", "add_options and build", tried(_study_parts, module))


def _defaults(kind: str, name: str) -> dict[str, Any]:
    return {field.name.partition(".")[2]: field.default for field in component_fields(kind, name)}


# ---------------------------------------------------------------------- weightings
def _weighting(name: str) -> str:
    config = TrialConfig(subset="ce+center+variance", weighting=name)
    weighting = Objective(config, Taxonomy.from_groups(GROUPS)).weighting
    assert weighting is not None
    for losses in ((0.5, 2.0, 1.0), (1e-6, 1e6, 0.0)):
        losses_T = torch.tensor(losses, requires_grad=True)
        total = weighting(losses_T)
        if total.ndim != 0 or not torch.isfinite(total):
            return f"of losses {losses} the total is {total.tolist()}: expected one finite number"
        share_T = weighting.shares()
        if share_T.shape != (PARTS,) or not math.isclose(share_T.sum().item(), 1.0, abs_tol=1e-4):
            return f"the shares are {share_T.tolist()}: expected one a term, 1 in all"
        total.backward()
        if losses_T.grad is None or not torch.isfinite(losses_T.grad).all() or not losses_T.grad.any():
            return f"of losses {losses} no finite gradient reaches them"
    return ""


def _alpha(name: str) -> str:
    if rule(name).logits == "none":
        return ""
    weighting = Objective(
        TrialConfig(subset="ce+center+variance", weighting=name), Taxonomy.from_groups(GROUPS)
    ).weighting
    assert weighting is not None
    assert weighting.alpha is not None
    total = weighting(torch.tensor([0.5, 2.0, 1.0]))
    if total.requires_grad:
        total.backward()
    reached = weighting.alpha.grad is not None and bool(weighting.alpha.grad.any())
    return "" if reached else 'no gradient reaches alpha: give it as Rule(fn, logits="none") if it learns none'


# ---------------------------------------------------------------------- data and images
def pictures(per_class: int = 4, size: int = SIZE) -> Dataset:
    """A small data set of drawn pictures, each class a pattern under noise."""
    tree, rng = Taxonomy.from_groups(GROUPS), np.random.default_rng(0)
    patterns = rng.random((tree.leaves, 3, size, size)) * 150

    def part() -> tuple[Any, Any]:
        y_N = np.arange(per_class * tree.leaves) % tree.leaves
        noise = rng.random((len(y_N), 3, size, size)) * 105
        return (patterns[y_N] + noise).astype(np.uint8), y_N

    return make_dataset("drawn", tree, train=part(), val=part(), test=part())


def _augmentation(name: str) -> str:
    train, fields = pictures().train, {name: _defaults("AUGMENTATIONS", name)}
    leaves = 1 + int(train.labels.max())
    for count in (len(train), 1):
        images, y_N = train.images[:count].clone(), train.labels[:count]
        found = [augment(images, y_N, fields, torch.Generator().manual_seed(5), classes=leaves) for _ in range(2)]
        (first, mixed), (second, _) = found
        if first.dtype != torch.uint8:
            return f"gave {first.dtype}: expected uint8"
        if not torch.equal(images, train.images[:count]):
            return "it changes the images in place: it is given the data set's own"
        if not torch.equal(first, second):
            return "not the same twice: random numbers come from the generator that it is given"
        if mixed is not None and not torch.allclose(mixed.sum(1), torch.ones(count), atol=1e-4):
            return "its targets don't sum to 1"
    return ""


def _dataset(name: str) -> str:
    dataset = load(TrialConfig(dataset=name))
    return "" if min(len(dataset.train), len(dataset.val), len(dataset.test)) else "a part of it is empty"


def _backbone(name: str) -> str:
    fields = _defaults("BACKBONES", name)
    model = build_model(name, pretrained=False, input_size=32, latent_dim=8, outputs=4, fields=fields)
    logits, _, _ = model(torch.rand(2, 3, 32, 32))
    torch.autograd.backward(logits.sum())
    return "" if any(p.grad is not None for p in model.backbone.parameters()) else "no gradient reaches its parameters"


# ---------------------------------------------------------------------- how it is trained and measured
def _schedule(name: str) -> str:
    function, fields = component("LR_SCHEDULES", name), _defaults("LR_SCHEDULES", name)
    factors = [function(done, **fields) for done in (0.0, 0.5, 0.99)]
    fine = all(isinstance(f, (int, float)) and math.isfinite(f) and f >= 0 for f in factors)
    return "" if fine else f"its factors are {factors} at the start, the middle and the end: expected numbers >= 0"


def _optimizer(name: str) -> str:
    parameter = nn.Parameter(torch.ones(3))
    groups = [{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}]
    optimizer = component("OPTIMIZERS", name)(groups, **_defaults("OPTIMIZERS", name))
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(parameter.square().sum())
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return "" if parameter.square().sum() < 3 else "two steps on x^2 do not bring it down"


def _metric(name: str) -> str:
    metric, rng = component("METRICS", name), np.random.default_rng(0)
    function = metric.fn if isinstance(metric, Metric) else metric
    tree = Taxonomy.from_groups(GROUPS)
    y_N = np.arange(2 * tree.leaves) % tree.leaves
    for z_ND in (rng.random((len(y_N), 8)), None):
        value = function(rng.random((len(y_N), tree.leaves)), z_ND, y_N, tree)
        if not isinstance(value, (int, float, np.floating)):
            return f"gave {type(value).__name__}: expected a number (nan where the input has none)"
    return ""


def _method(name: str) -> str:
    """An epoch, kept and taken up by another of its kind; both go on alike, to the bit; then the result."""
    config = TrialConfig(method=name, subset="ce", epochs=2, batch_size=8, input_size=32, latent_dim=8)
    data, threads = pictures(), torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how many share them
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint"
            one, other = (start((config,), data, "cpu") for _ in range(2))
            one.epoch()
            one.save(path)
            other.restore(path, (0,))
            (straight,), (resumed,) = one.epoch(), other.epoch()
            assert straight is not None
            assert resumed is not None
            if straight.metrics != resumed.metrics:
                names = [n for n, value in straight.metrics.items() if resumed.metrics.get(n) != value]
                return f"after restore {', '.join(names)} differ: what is learned must be in save, chance from the seed"
            if not all(one.done):
                return "two epochs of two are done, and it is not done"
            result = one.result(0)
    finally:
        torch.set_num_threads(threads)
    return "" if "test/top1" in result.metrics else "its result has no test/top1"


# ---------------------------------------------------------------------- the rest
def _group(name: str) -> str:
    for member in groups()[name]:
        component("TERMS", member)
    return ""


def _scheduler(name: str) -> str:
    component("SCHEDULERS", name)(9)
    return ""


def _study(name: str) -> str:
    return _study_parts(component("STUDIES", name))


def _study_parts(study: Any) -> str:
    for part in ("add_options", "build"):
        function = getattr(study, part, None)
        if not callable(function):
            return f"it has no {part}: expected add_options(parser) and build(args) -> Study"
        inspect.signature(function).bind(None)
    study.add_options(argparse.ArgumentParser())
    return ""


CHECKS: Mapping[str, Mapping[str, Callable[[str], str]]] = {
    "TERM_GROUPS": {"its terms exist": _group},
    "WEIGHTINGS": {"total, shares and gradient": _weighting, "gradient reaches alpha": _alpha},
    "DATASETS": {"loads": _dataset},
    "BACKBONES": {"forward and backward": _backbone},
    "METHODS": {"an epoch, and a resume to the bit": _method},
    "METRICS": {"a number, with and without latents": _metric},
    "AUGMENTATIONS": {"images, the same by the same generator": _augmentation},
    "OPTIMIZERS": {"steps down": _optimizer},
    "LR_SCHEDULES": {"factors": _schedule},
    "SCHEDULERS": {"is made": _scheduler},
    "STUDIES": {"add_options and build": _study},
}

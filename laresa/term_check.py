"""Does a term do what a term must? Tried on small batches: shape, numbers, gradient, determinism, what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from laresa.config import TrialConfig
from laresa.errors import ConfigError
from laresa.labels import embeddings_of
from laresa.objective import Objective
from laresa.plugins import loaded
from laresa.taxonomy import Taxonomy
from laresa.terms import head_of, term, term_fields

if TYPE_CHECKING:
    from laresa.data.dataset import Dataset

N, D, F = 8, 8, 5  # samples, latent dimensions, features of the trial batch
STEP = 1e-6  # of finite differences, in float64
SLOPE_TOLERANCE = 1e-4
FLOAT32_TOLERANCE = 1e-3
GROUPS = {"pet": ["cat", "dog", "fish"], "vehicle": ["truck", "car"], "fruit": ["apple", "pear"]}


@dataclass(frozen=True)
class Finding:
    """One check of one component. wrong: what is; empty where it passed."""

    component: str
    check: str
    wrong: str = ""

    def __str__(self) -> str:
        return f"{self.component:24s} {self.check:44s} {self.wrong or 'ok'}"


@dataclass(frozen=True)
class Bench:
    """A term under test, in float64, on inputs that are drawn once.

    inputs: z, logits, and features and views where a term has them; learned: by "term/field".
    """

    name: str
    objective: Objective
    inputs: Mapping[str, Tensor]
    learned: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    y_N: Tensor

    def value(self, **changes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(the term's mean loss, what it keeps); the random numbers that a batch gives are the same each time."""
        tensors = {**self.inputs, **self.learned, **changes}
        generator = torch.Generator().manual_seed(0)
        batch = self.objective.batch(
            tensors["logits"],
            tensors["z"],
            self.y_N,
            features_NF=tensors["features"],
            view_ND=tensors.get("view"),
            uniform=lambda shape: torch.rand(tuple(shape), generator=generator),
        )
        learned = {name: tensors[name] for name in self.learned}
        losses, kept = self.objective.compute(batch, {**learned, **self.memory})
        return losses[self.objective.parts.index(self.name)], kept

    def on(self, rows: Tensor) -> Bench:
        """The same on other rows of the batch."""
        return replace(self, inputs={name: x[rows] for name, x in self.inputs.items()}, y_N=self.y_N[rows])


def bench(name: str, config: TrialConfig, tree: Taxonomy, levels: Sequence[Tensor]) -> Bench:
    """A term of a configuration, ready to be tried. ConfigError: the configuration can't be used."""
    objective = Objective(config, tree, levels).double()
    head = head_of(config.parts[0], config.values(config.parts[0]))
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    width = levels[0].shape[1] if levels else D
    inputs = {"z": drawn(N, width), "logits": drawn(N, head.outputs(tree)), "features": drawn(N, F)}
    if objective.views > 1:
        inputs["view"] = drawn(N, width)
    kept: dict[str, dict[str, Tensor]] = {"learned": {}, "memory": {}}
    for part in config.parts:
        for field in term_fields(part):
            if field.kind in kept:
                key = field.name.replace(".", "/", 1)
                kept[field.kind][key] = getattr(objective, key).detach()
    return Bench(name, objective, inputs, kept["learned"], kept["memory"], torch.arange(N) % tree.leaves)


# ---------------------------------------------------------------------- the checks: each gives what is wrong, or ""
def _shape(trial: Bench) -> str:
    value, _ = trial.value()
    return "" if torch.isfinite(value) else f"the loss is {value.item()}"


def _batch_of_one(trial: Bench) -> str:
    return _finite(trial.on(torch.tensor([0])))


def _missing_class(trial: Bench) -> str:
    """Two classes only: others have no sample in the batch."""
    return _finite(replace(trial, y_N=trial.y_N % 2))


def _finite(trial: Bench) -> str:
    value, gradients = _gradients(trial)
    if not torch.isfinite(value):
        return f"the loss is {value.item()}"
    broken = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    return f"the gradient of {' and '.join(broken)} is not finite" if broken else ""


def _float32(trial: Bench) -> str:
    def narrow(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.float() for name, x in tensors.items()}

    wide = trial.value()[0].item()
    single = replace(
        trial, inputs=narrow(trial.inputs), learned=narrow(trial.learned), memory=narrow(trial.memory)
    ).value()[0]
    if abs(single.item() - wide) <= FLOAT32_TOLERANCE * max(1.0, abs(wide)):
        return ""
    return f"{wide:.6g} in float64, {single.item():.6g} in float32"


def _deterministic(trial: Bench) -> str:
    before = {name: x.clone() for name, x in trial.inputs.items()}
    (first, kept_first), (second, kept_second) = trial.value(), trial.value()
    if changed := [name for name, x in before.items() if not torch.equal(x, trial.inputs[name])]:
        return f"it changes {' and '.join(changed)} of the batch in place"
    same = kept_first.keys() == kept_second.keys() and all(
        torch.equal(x, kept_second[n]) for n, x in kept_first.items()
    )
    if torch.equal(first, second) and same:
        return ""
    return (
        f"non-deterministic: {first.item():.6g}, then {second.item():.6g} for the same batch; random numbers come from "
        "batch.uniform(shape), and what it remembers is a field marked Memory"
    )


def _gradient(trial: Bench) -> str:
    """Against central differences along random directions; a kink on the way is improbable."""
    value, gradients = _gradients(trial)
    if not torch.isfinite(value):
        return f"the loss is {value.item()}"
    if not any(gradients[name].abs().max() > 0 for name in trial.inputs):
        return "no gradient reaches z or logits: it trains nothing"
    generator = torch.Generator().manual_seed(2)
    for name, x in {**trial.inputs, **trial.learned}.items():
        along = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        slope = (gradients[name] * along).sum().item()
        above, below = (trial.value(**{name: x + sign * STEP * along})[0].item() for sign in (1, -1))
        measured = (above - below) / (2 * STEP)
        if not abs(slope - measured) <= SLOPE_TOLERANCE * max(1.0, abs(measured)):
            return f"of {name.replace('/', '.')}: {slope:.6g} by autograd, {measured:.6g} by finite differences"
    return ""


def _gradients(trial: Bench) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: x.clone().requires_grad_() for name, x in {**trial.inputs, **trial.learned}.items()}
    value, _ = trial.value(**leaves)
    if not value.requires_grad:
        return value, {name: torch.zeros_like(x) for name, x in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(leaves, found, strict=True))


def _learned(trial: Bench, name: str) -> str:
    _, gradients = _gradients(trial)
    return "" if gradients[name].abs().max() > 0 else "no gradient reaches it: it is never learned"


def _remembered(trial: Bench, name: str) -> str:
    """In training a batch's new value takes the place of the old one."""
    _, kept = trial.value()
    if name not in kept:
        return 'never returned: expected (loss, {"name": new value})'
    return "" if torch.isfinite(kept[name]).all() else "returned with numbers that are not finite"


QUICK: dict[str, Callable[[Bench], str]] = {  # what `laresa run` checks too, on the data set's own classes
    "shape, and a finite loss": _shape,
    "gradient against finite differences": _gradient,
    "the same twice": _deterministic,
}
THOROUGH: dict[str, Callable[[Bench], str]] = {
    **QUICK,
    "a batch of one": _batch_of_one,
    "classes without samples": _missing_class,
    "float32 as float64": _float32,
}


def check_term(name: str) -> Iterator[Finding]:
    """A term alone, or beside cross-entropy, on a small tree and drawn embeddings."""
    component = f"term {name}"
    tree = Taxonomy.from_groups(GROUPS)
    generator = torch.Generator().manual_seed(3)
    levels = [normalize(torch.randn(tree.leaves, D, generator=generator), dim=1) for _ in range(tree.levels)]
    try:
        base = term(name).base is not None
        trial = bench(name, TrialConfig(subset=name if base else f"ce+{name}"), tree, levels)
    except ConfigError as error:
        yield Finding(component, "a subset with it", str(error))
        return
    for check, function in THOROUGH.items():
        yield Finding(component, check, tried(function, trial))
    for kept, function_of in ((trial.learned, _learned), (trial.memory, _remembered)):
        for key in kept:
            if key.startswith(f"{name}/"):
                yield Finding(component, key.replace("/", "."), tried(lambda t, k=key, f=function_of: f(t, k), trial))


def tried(function: Callable[..., str], *arguments: Any) -> str:
    """What is wrong, an exception included."""
    try:
        return function(*arguments)
    except ConfigError as error:
        return str(error)
    except Exception as error:  # whatever a user's code raises
        return f"{type(error).__name__}: {error}"


def check_terms(config: TrialConfig, dataset: Dataset) -> None:
    """The quick checks of a subset's terms, with a data set's own tree and label embeddings, before a sweep trains.

    Of plugins' terms: ours have their tests. ConfigError: a term that can't be trained, and why.
    """
    brought = {name for plugin in loaded() for name in plugin.names.get("TERMS", ())}
    if not brought & set(config.parts):
        return
    levels = embeddings_of(config, dataset.taxonomy).levels
    for name in (part for part in config.parts if part in brought):
        trial = bench(name, config, dataset.taxonomy, levels)
        for check, function in QUICK.items():
            if wrong := tried(function, trial):
                raise ConfigError(f"term {name!r} does not pass its check ({check}): {wrong}")

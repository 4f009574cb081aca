"""Terms are data: functions of a Batch in plain dicts (`TERMS`), ours and a plugin's alike.

    def angular(batch, *, gamma: Annotated[float, Range(0.5, 8, log=True)] = 2.0):
        return (1 - batch.cosines("fine")) ** gamma

    TERMS = {"angular": angular}

A term returns a loss per sample (N), whose mean counts, or one a batch (scalar), or (loss, {"m": new}) where it keeps a
tensor in Memory; it changes nothing in place. What a bare function can't say stands in a `Term` around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from laresa.errors import ConfigError
from laresa.fields import Field, fields_of
from laresa.plugins import component, table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from laresa.taxonomy import Taxonomy


@dataclass(frozen=True)
class Head:
    """What a base term asks of the classifier's last layer.

    outputs: tree -> number of logits (C, one a class; V, one a node).
    log_leaf: (logits, tree) -> log p_NC over the classes: what argmax, metrics and decisions read; or log p_NV over
        all nodes, where an internal one that is greatest is the answer, and wrong. Its keyword-only parameters are
        fields of the base term (`hace.prediction`), which its loss does not see.
    build: (width, outputs) -> the layer; None: torch.nn.Linear.
    """

    outputs: Callable[[Taxonomy], int]
    log_leaf: Callable[..., Tensor]
    build: Callable[[int, int], nn.Module] | None = None


@dataclass(frozen=True)
class Term:
    """A loss term and what its function alone does not say.

    base: set for a base term (ce, hace, ...): exactly one stands in every subset, and it says what the head has.
    views: 2 for a term that compares two augmentations of each image (`batch.view_ND`).
    tree: it needs a tree over the classes, and is refused before training where the data set is flat.
    labels: it reads the label embeddings, so that the shuffled control changes it.
    show: {learned tensor's name: value} -> what to log of it once an epoch, by the name in MLflow.
    """

    fn: Callable[..., Any]
    base: Head | None = None
    views: int = 1
    tree: bool = False
    labels: bool = True
    show: Callable[[Mapping[str, Tensor]], Mapping[str, float]] | None = None


def term(name: str) -> Term:
    """The term of that name. ConfigError: there is none."""
    found = component("TERMS", name)
    return found if isinstance(found, Term) else Term(found)


def term_fields(name: str) -> tuple[Field, ...]:
    """A term's fields, as `triplet.margin`, its head's at the end. `<name>_learned`: false keeps a learned tensor."""
    found: list[Field] = []
    for field in (*fields_of(term(name).fn, name), *_head_fields(name)):
        found.append(field)
        if field.kind == "learned":
            found.append(Field(f"{field.name}_learned", bool, True, doc="false keeps it where it starts"))
    return tuple(found)


def _head_fields(name: str) -> tuple[Field, ...]:
    base = term(name).base
    return () if base is None else fields_of(base.log_leaf, name)


def head_of(name: str, values: Mapping[str, Any]) -> Head:
    """A base term's head, set by its fields. values: the term's, by their own names. ConfigError: no base term."""
    base = term(name).base
    if base is None:
        raise ConfigError(f"term {name!r} is no base term: it has no head")
    own = {short: values[short] for field in _head_fields(name) if (short := field.name.partition(".")[2]) in values}
    return replace(base, log_leaf=partial(base.log_leaf, **own)) if own else base


def loss_fields(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a term's values that its loss is called with."""
    heads = {field.name.partition(".")[2] for field in _head_fields(name)}
    return {short: value for short, value in values.items() if short not in heads}


def groups() -> Mapping[str, tuple[str, ...]]:
    """Names that stand for several terms: reg -> (center, variance)."""
    return table("TERM_GROUPS")


def canonical_subset(subset: str) -> str:
    """Parts in the order of the table, the base term first, without repeats; a whole group by its name.

    ConfigError: an unknown term, one named twice, no base term or more than one.
    """
    parts = [part.strip() for part in subset.split("+")]
    known = table("TERMS")
    for part in parts:
        if part not in groups():
            component("TERMS", part)
    terms = [name for part in parts for name in groups().get(part, (part,))]
    if len(set(terms)) < len(terms):
        raise ConfigError(f"subset {subset!r} names a loss twice{_group_note(parts)}")
    bases = [name for name in terms if term(name).base is not None]
    if len(bases) != 1:
        can = ", ".join(name for name in known if term(name).base is not None)
        has = "no base term" if not bases else f"{len(bases)} base terms ({', '.join(bases)})"
        raise ConfigError(f"subset {subset!r} has {has}: expected exactly one of {can}, which trains the classifier")
    ordered = bases + [name for name in known if name in terms and name not in bases]
    for group, members in groups().items():
        if set(members) <= set(ordered):
            ordered = [name for name in ordered if name not in members] + [group]
    return "+".join(ordered)


def _group_note(parts: list[str]) -> str:
    named = [part for part in parts if part in groups()]
    return "".join(f"; {name!r} already means {' and '.join(groups()[name])}" for name in named)

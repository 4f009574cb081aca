"""Fields: what a component (a term, a weighting, a method, ...) can be set to. Free of torch.

A component is a function or class; its keyword-only parameters are its fields, each with a type and a default:

    def angular(batch, *, gamma: Annotated[float, Gt(0), Range(0.5, 8, log=True)] = 2.0): ...

Outside a field is called by its component and name: `angular.gamma`. Markers in Annotated say more: `Range` is where a
search looks by default, `Choices` that it tries every value of a Literal; annotated_types' Gt, Ge, Lt, Le are limits
that are checked; `Doc` is what --help shows;
`Learned` and `Memory` are tensors that a trial keeps; `PerTerm` is one number for each weighted term.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Doc

from laresa.errors import ConfigError

if TYPE_CHECKING:
    from laresa.taxonomy import Taxonomy

__all__ = [
    "Choices",
    "Doc",
    "Field",
    "Learned",
    "Memory",
    "PerTerm",
    "Range",
    "check_value",
    "fields_of",
    "fields_of_dataclass",
]


@dataclass(frozen=True)
class Range:
    """Where a search looks for a field unless --space says otherwise; log: evenly in the logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choices:
    """Marks a Literal all of whose values a search tries unless --space says otherwise."""


@dataclass(frozen=True)
class Learned:
    """Marks a tensor that is learned with the term: the default is where it starts.

    start: (tree, width of the latents) -> tensor, where its shape or numbers follow from the data. The value "tree"
    asks for it, and may be the default: `p: Annotated[Tensor, Learned(prototypes)] = "tree"`, of any shape.
    """

    start: Callable[[Taxonomy, int], Any] | None = None


@dataclass(frozen=True)
class Memory:
    """Marks a tensor that a term keeps from step to step: it returns (loss, {name: new value}).

    start: as of Learned.
    """

    start: Callable[[Taxonomy, int], Any] | None = None


FROM_TREE = "tree"


@dataclass(frozen=True)
class PerTerm:
    """Marks a vector of one number a weighted term; default: of the number of terms -> each entry's default."""

    default: Callable[[int], float]
    of: str = "all"  # or "others": the base term has none
    some: bool = False  # one of them at least is above 0


@dataclass(frozen=True)
class Field:
    """One field. name: as it is called outside. kind: "value", "learned", "memory" or "per_term". start: of Learned."""

    name: str
    type: Any
    default: Any
    range: Range | None = None
    kind: str = "value"
    doc: str = ""
    per_term: PerTerm | None = None
    start: Callable[[Taxonomy, int], Any] | None = None
    choices: tuple[Any, ...] = ()  # of Choices

    @property
    def type_name(self) -> str:
        """The type as a person reads it, with its limits: `float > 0 <= 1`, `sum | mean`."""
        return _type_name(self.type)

    @property
    def optional(self) -> bool:
        """Whether None is a value of it."""
        bare = typing.get_args(self.type)[0] if typing.get_origin(self.type) is Annotated else self.type
        return type(None) in typing.get_args(bare)

    @property
    def entry_type(self) -> Any:
        """Of one number of a vector."""
        if self.kind == "per_term":
            return self.type
        first = typing.get_args(self.type)[0]
        return typing.get_args(first)[0] if self.start else first


def fields_of(component: Callable[..., Any], prefix: str = "") -> tuple[Field, ...]:
    """The fields of a function or class by its keyword-only parameters; `prefix` with a dot stands before each name.

    ConfigError: a parameter without a type or a default.
    """
    return _fields_of(component, prefix)


@functools.lru_cache(maxsize=512)
def _fields_of(component: Callable[..., Any], prefix: str) -> tuple[Field, ...]:
    if dataclasses.is_dataclass(component):  # with what it inherits, which may be another module's
        dot = f"{prefix}." if prefix else ""
        own = fields_of_dataclass(typing.cast(type, component))
        return tuple(dataclasses.replace(field, name=dot + field.name) for field in own)
    target = inspect.unwrap(component.__init__ if inspect.isclass(component) else component)
    parameters = [p for p in inspect.signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY]
    name = getattr(component, "__name__", str(component))
    for parameter in parameters:
        if parameter.default is parameter.empty or parameter.annotation is parameter.empty:
            lacks = "a default" if parameter.default is parameter.empty else "a type"
            raise ConfigError(
                f"{name}: its field {parameter.name!r} has no {lacks[2:]}: expected a type and a default, as in "
                f"`{parameter.name}: float = 1.0`"
            )
    if not parameters:
        return ()
    try:
        # Of the fields alone: other parameters may have types that are imported for type checking only.
        fields = types.SimpleNamespace(__annotations__={p.name: p.annotation for p in parameters})
        hints = typing.get_type_hints(fields, globalns=getattr(target, "__globals__", {}), include_extras=True)
    except NameError as error:
        raise ConfigError(f"{name}: the type of a field can't be read ({error}): import it in the module") from error
    return tuple(_field(prefix, p.name, hints[p.name], p.default) for p in parameters)


def fields_of_dataclass(kind: type) -> tuple[Field, ...]:
    """The fields of a configuration dataclass, by their own names."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(_field("", f.name, hints[f.name], f.default) for f in dataclasses.fields(kind))


def _field(prefix: str, name: str, hint: Any, default: Any) -> Field:
    annotation, extras = (hint.__origin__, hint.__metadata__) if typing.get_origin(hint) is Annotated else (hint, ())
    found: dict[str, Any] = {}
    limits = []
    for extra in extras:
        if isinstance(extra, Range):
            found["range"] = extra
        elif extra is Choices or isinstance(extra, Choices):
            found["choices"] = typing.get_args(annotation)
        elif isinstance(extra, Doc):
            found["doc"] = extra.documentation
        elif isinstance(extra, PerTerm):
            found |= {"kind": "per_term", "per_term": extra}
        elif extra in (Learned, Memory) or isinstance(extra, (Learned, Memory)):
            found |= {"kind": "learned" if Learned in (extra, type(extra)) else "memory", "start": extra.start}
        else:
            limits.append(extra)
    kind = found.get("kind", "value")
    if kind != "value":
        annotation = float  # of each number of a vector
    for limit in limits:
        annotation = Annotated[annotation, limit]
    if kind in ("learned", "memory") and not isinstance(default, (int, float)):
        annotation = types.GenericAlias(tuple, (annotation, ...))
        if found.get("start"):  # "tree": a tuple of its own is another choice, unless it is no vector
            annotation = Literal["tree"] if default == FROM_TREE else typing.Union[annotation, Literal["tree"]]  # noqa: UP007
    return Field(f"{prefix}.{name}" if prefix else name, annotation, default, **found)


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is Annotated:
        limits = [_limit(extra) for extra in annotation.__metadata__]
        return " ".join([_type_name(annotation.__origin__), *filter(None, limits)])
    if typing.get_origin(annotation) is Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return " | ".join(map(_type_name, typing.get_args(annotation)))
    if typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "")
    return "None" if annotation is type(None) else str(getattr(annotation, "__name__", annotation))


def _limit(extra: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [f"{sign} {getattr(extra, name)}" for name, sign in signs.items() if hasattr(extra, name)]
    return " ".join(found)


@functools.lru_cache(maxsize=1024)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False, strict=True))


def check_value(field: Field, value: Any) -> Any:
    """The value in the field's type (1 -> 1.0 for a float, a list -> a tuple). ConfigError: not of that type."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{field.name}={value!r}: expected {field.type_name}, not {type(value).__name__}") from None
    try:
        checked = _adapter(field.type).validate_json(text)
    except ValidationError as error:
        said = error.errors()[0]["msg"].replace("Input should be", "expected")
        raise ConfigError(f"{field.name}={value!r}: {said}") from None
    if field.kind in ("learned", "memory") and isinstance(checked, tuple):
        size = None if field.start else len(field.default)
        if len(checked) != size and not (checked and size is None):
            raise ConfigError(f"{field.name}={value!r} has {len(checked)} numbers: expected {size or 'one at least'}")
    return checked


def plain(value: Any) -> Any:
    """In JSON's types."""
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value

"""What an operator is to its users: a function, and what its paper says, promises and needs.

`docs/reference/operators.md` is written from these entries, `build` looks names up in them, and the battery holds every promise.
An operator is named by one word, with its own options behind a colon: `solar:overlap=8`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError, near
from outgrow.growth.growth import Growth

_COMMON = ("seed", "noise")


@dataclass(frozen=True)
class Asked:
    """Target sizes, those that follow included, and the axes that may shrink because they are cut in pieces."""

    to: Mapping[str, Any]
    finer: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Operator:
    """One growth operator: the function and its page in `docs/reference/operators.md`."""

    name: str
    kind: Literal["width", "depth", "experts"]
    grow: Callable[..., Growth]
    """`(small, large, *, seed, **own) -> Growth`; width and experts operators also take `noise`."""
    title: str
    """One sentence: what becomes of the units or layers."""
    paper: str
    tensors: Mapping[str, str]
    """What happens to embeddings, attention, MLP, norms, biases and the head."""
    function: str
    """When the function is kept, for which norms and sizes."""
    gradient: str
    """When the gradient law holds."""
    escape: str
    """What lets copies part."""
    use: str
    """When to choose it."""
    published_moments: Moments = "reset"
    """What the paper does with the optimizer's moments."""
    schedule: str = ""
    """What the paper does with the learning rate."""
    sizes: Callable[..., Asked] | None = None
    """Experts: `(small, to, **own) -> Asked`, the sizes that follow from those asked for and its options."""
    needs_layers: bool = True
    """Depth: whether a model without layers leaves it nothing to begin from."""
    options: Mapping[str, str] = field(default_factory=dict)
    """A line for each of its own options."""

    @property
    def kinds(self) -> dict[str, Any]:
        """Its own options and their types: int, float, str, bool, or a Literal of the words allowed."""
        hints = get_type_hints(self.grow)
        return {
            name: hints[name]
            for name, parameter in inspect.signature(self.grow).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in _COMMON
        }


def find(text: str, kind: str, registry: Mapping[str, Operator]) -> tuple[Operator, dict[str, Any]]:
    """The operator and options that `name` or `name:option=value,option=value` asks for.

    Raises GrowthError for an unknown name or option, naming the near ones, and for a value of the wrong type.
    """
    name, _, words = text.partition(":")
    if name not in registry:
        raise GrowthError(f"unknown {kind} operator '{name}' ({near(name, registry)})")
    operator, options = registry[name], dict[str, Any]()
    for word in filter(None, words.split(",")):
        option, separator, value = (part.strip() for part in word.partition("="))
        if option not in operator.kinds or not separator:
            known = near(option, operator.kinds) if operator.kinds else "it has none"
            raise GrowthError(f"{kind} operator '{name}' has no option '{word}' ({known})")
        try:
            options[option] = _parsed(operator.kinds[option], value)
        except ValueError:
            raise GrowthError(
                f"option {option} of {kind} operator '{name}'",
                got=value,
                expected=expected(operator.kinds[option]),
            ) from None
    return operator, options


def expected(kind: Any) -> str:
    """A type of an option in words.

    >>> expected(Literal["copy", "zero"]), expected(int), expected(bool)
    ('copy or zero', 'int', 'true or false')
    """
    return " or ".join(_words(kind)) if _words(kind) else str(kind.__name__)


def _words(kind: Any) -> tuple[str, ...]:
    """The words that an option may be, where it is one of a few."""
    if kind is bool:
        return ("true", "false")
    return get_args(kind) if get_origin(kind) is Literal else ()


def _parsed(kind: Any, value: str) -> Any:
    if not _words(kind):
        return kind(value)
    if value not in _words(kind):
        raise ValueError(value)
    return value == "true" if kind is bool else value

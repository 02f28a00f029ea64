"""Sizes as expressions over config fields: `a // b`, `4 * a`, and `a | b` (b where a is absent or null).

A field that holds a map or a list stands for the number of its entries (`id2label`); a dot leads into a config inside
the config (`text_config.hidden_size`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import sqrt
from typing import Any

from outgrow.errors import ArchitectureError

FIELD = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
"""A config field, or one of a config inside it."""
_FACTOR = re.compile(rf"(?P<inverse>1 / )?sqrt\((?P<field>{FIELD})\)(?: if (?P<when>{FIELD}))?")


def fields(expression: str) -> frozenset[str]:
    """Config fields that the expression names.

    >>> sorted(fields("head_dim | hidden_size // num_attention_heads"))
    ['head_dim', 'hidden_size', 'num_attention_heads']
    """
    return frozenset(re.findall(FIELD, expression))


def got(config: Mapping[str, Any], field: str) -> Any:
    """The value of a config field, or of one in a config inside it; None where there is none.

    >>> got({"text_config": {"hidden_size": 6}}, "text_config.hidden_size")
    6
    """
    found: Any = config
    for word in field.split("."):
        found = found.get(word) if isinstance(found, Mapping) else None
    return found


def beside(config: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """The config that a field stands in: this one, or one inside it.

    >>> beside({"text_config": {"hidden_size": 6}}, "text_config.hidden_size")
    {'hidden_size': 6}
    """
    inner, _, _ = field.rpartition(".")
    found: Mapping[str, Any] = (got(config, inner) or {}) if inner else config
    return found


def with_field(config: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """The config with one field set, in a config inside it where the field has dots.

    >>> with_field({"text_config": {"hidden_size": 6}}, "text_config.hidden_size", 8)
    {'text_config': {'hidden_size': 8}}
    """
    word, _, rest = field.partition(".")
    return {**config, word: with_field(config.get(word) or {}, rest, value) if rest else value}


def size_of(expression: str, config: Mapping[str, Any]) -> int:
    """Value of the expression.

    >>> size_of("n_inner | 4 * n_embd", {"n_inner": None, "n_embd": 6})
    24
    """
    for alternative in expression.split("|"):
        value = _term(alternative.split(), config)
        if value is not None:
            return value
    raise ArchitectureError(
        f"the config gives no value for '{expression}'",
        got={name: got(config, name) for name in sorted(fields(expression))},
        expected="a positive whole number",
    )


def factor(expression: str | None, config: Mapping[str, Any]) -> float:
    """What a model multiplies a tensor by: `sqrt(a)` or `1 / sqrt(a)`, if a field is true; else 1.

    The root is exact: a model in bfloat16 rounds it, so there the grown function is off by as much (2^-9).

    >>> factor("1 / sqrt(d_model) if scaled", {"d_model": 16, "scaled": True})
    0.25
    """
    if expression is None:
        return 1.0
    found = _FACTOR.fullmatch(expression)
    if found is None:
        raise ArchitectureError(
            f"'{expression}' is no factor of a tensor", expected="for example 'sqrt(hidden_size)'"
        )
    if found["when"] and not got(config, found["when"]):
        return 1.0
    value = sqrt(size_of(found["field"], config))
    return 1 / value if found["inverse"] else value


def _term(words: list[str], config: Mapping[str, Any]) -> int | None:
    """`a`, `a * b`, `a // b`, `a + b` or `a - b`, from the left; None where a field is absent or null."""
    values = [int(word) if word.isdigit() else got(config, word) for word in words[::2]]
    numbers = [len(value) if isinstance(value, Mapping | list) else value for value in values]
    if any(number is None for number in numbers):
        return None
    for word, number in zip(words[::2], numbers, strict=True):
        if isinstance(number, bool) or not isinstance(number, int) or number <= 0:
            raise ArchitectureError(
                f"config field '{word}' is not a size", got=repr(number), expected="a positive whole number"
            )
    total = numbers[0]
    assert total is not None
    for operation, number in zip(words[1::2], numbers[1:], strict=True):
        assert number is not None
        if operation == "*":
            total *= number
        elif operation == "+":
            total += number
        elif operation == "-":
            total -= number
        elif operation == "//":
            if total % number:
                raise ArchitectureError(
                    f"'{' '.join(words)}' is not a whole number",
                    got=f"{total} / {number}",
                    fix=f"choose sizes where {words[0]} is a multiple of {words[2]}",
                )
            total //= number
        else:
            raise ArchitectureError(
                f"unknown operation '{operation}' in '{' '.join(words)}'", expected="*, //, + or -"
            )
    return total

"""Sizes as expressions over config fields: `a // b`, `4 * a`, and `a | b` (b where a is absent or null).

A field that holds a map stands for the number of its entries (`id2label`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from outgrow.errors import ArchitectureError


def fields(expression: str) -> frozenset[str]:
    """Config fields that the expression names.

    >>> sorted(fields("head_dim | hidden_size // num_attention_heads"))
    ['head_dim', 'hidden_size', 'num_attention_heads']
    """
    return frozenset(re.findall(r"[A-Za-z_]\w*", expression))


def size_of(expression: str, config: Mapping[str, Any]) -> int:
    """Value of the expression.

    >>> size_of("n_inner | 4 * n_embd", {"n_inner": None, "n_embd": 6})
    24
    """
    for alternative in expression.split("|"):
        value = _product(alternative.split(), config)
        if value is not None:
            return value
    raise ArchitectureError(
        f"the config gives no value for '{expression}'",
        got={name: config.get(name) for name in sorted(fields(expression))},
        expected="a positive whole number",
    )


def _product(words: list[str], config: Mapping[str, Any]) -> int | None:
    """`a`, `a * b` or `a // b`, from the left; None where a field is absent or null."""
    fields = [int(word) if word.isdigit() else config.get(word) for word in words[::2]]
    numbers = [len(field) if isinstance(field, Mapping) else field for field in fields]
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
                f"unknown operation '{operation}' in '{' '.join(words)}'", expected="* or //"
            )
    return total

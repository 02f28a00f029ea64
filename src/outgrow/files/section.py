"""What every section of a `run.yaml`, a `plan.yaml` or a study is: frozen, without unknown keys, its numbers finite."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}


def parse_count(value: Any) -> Any:
    """A whole number written as `2000000`, `2e6`, `"2M"` or `"1.5B"`; anything else is left to the validator.

    >>> parse_count("2M"), parse_count(1e6), parse_count("0.5k")
    (2000000, 1000000, 500)
    """
    if isinstance(value, bool):
        raise ValueError("expected a number such as 2000000, 2e6 or 2M")
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9_]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([kKmMgGbBtT]?)\s*", value)
        if match is None:
            raise ValueError("expected a number such as 2000000, 2e6 or 2M")
        value = float(match.group(1).replace("_", "")) * _UNITS[match.group(2).lower()]
    if isinstance(value, float):
        if not math.isfinite(value) or abs(value - round(value)) > 1e-6 * max(1.0, abs(value)):
            raise ValueError("expected a whole number such as 2000000, 2e6 or 2M")
        return round(value)
    return value


TokenCount = Annotated[int, BeforeValidator(parse_count), Field(ge=0)]
"""A number of tokens, also written `2e6` or `2M`."""

Count = Annotated[int, BeforeValidator(parse_count), Field(ge=1)]
"""A whole number of at least 1, also written `2e6` or `2M`."""

LARGEST = 1e30
"""Beyond it a product of two is more than float32 holds, and an optimizer fails in the middle of its step."""
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What numpy and torch take both."""


class Section(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

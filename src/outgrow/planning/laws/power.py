"""One size's learning curve, the common shape of all laws at a fixed number of parameters.

loss(tokens) = floor + (scale / tokens)^exponent          tokens(loss) = scale / (loss - floor)^(1 / exponent)
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outgrow.errors import ConfigError

Array = NDArray[np.float64]


def array(values: ArrayLike) -> Array:
    """Numbers in float64; a single number becomes a 0-dimensional array."""
    return np.asarray(values, dtype=np.float64)


def check_positive(law: Any, *, zero_allowed: tuple[str, ...] = ()) -> None:
    """Every constant of a law is a finite positive number."""
    for field in fields(law):
        value = getattr(law, field.name)
        if not np.isfinite(value) or value < 0 or (value == 0 and field.name not in zero_allowed):
            raise ConfigError(
                f"{type(law).__name__}.{field.name} is not a constant of a law",
                got=value,
                expected="a finite number above 0",
            )


def length_for(loss: ArrayLike, floor: ArrayLike, scale: float, exponent: float) -> Array:
    """Where floor + (scale / x)^exponent has this loss; infinity at or below the floor, which no length reaches."""
    excess = array(loss) - array(floor)
    with np.errstate(divide="ignore"):
        result: Array = scale * np.where(excess > 0, np.abs(excess), 0.0) ** (-1.0 / exponent)
    return result


@dataclass(frozen=True)
class Optimum:
    """The cheapest single training that reaches a loss: FLOPs = 6 * parameters * tokens."""

    loss: float
    parameters: float
    tokens: float
    flops: float


@dataclass(frozen=True)
class PowerCurve:
    """Loss of one model against tokens: `floor_loss + (scale_tokens / tokens)^exponent`.

    With steps in the place of tokens it is Kaplan's curve of a size; the unit is that of `scale_tokens`.

    >>> curve = PowerCurve(floor_loss=2.0, scale_tokens=1e6, exponent=0.5)
    >>> float(curve.loss(4e6)), float(curve.tokens(2.5)), float(curve.tokens(2.0))
    (2.5, 4000000.0, inf)
    """

    floor_loss: float
    scale_tokens: float
    exponent: float

    def __post_init__(self) -> None:
        check_positive(self, zero_allowed=("floor_loss",))

    def loss(self, tokens: ArrayLike) -> Array:
        """Loss in nats per token after `tokens`; infinite at 0."""
        with np.errstate(divide="ignore"):
            result: Array = self.floor_loss + (self.scale_tokens / array(tokens)) ** self.exponent
        return result

    def tokens(self, loss: ArrayLike) -> Array:
        """Tokens until this loss; infinity at or below the floor."""
        return length_for(loss, self.floor_loss, self.scale_tokens, self.exponent)

    def gradient(self, tokens: ArrayLike) -> dict[str, Array]:
        """Derivatives of the loss by every constant and by `tokens`."""
        tokens = array(tokens)
        term = (self.scale_tokens / tokens) ** self.exponent
        return {
            "floor_loss": np.ones_like(term),
            "scale_tokens": self.exponent * term / self.scale_tokens,
            "exponent": term * np.log(self.scale_tokens / tokens),
            "tokens": -self.exponent * term / tokens,
        }

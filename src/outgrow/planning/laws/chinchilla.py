"""The law of Hoffmann et al. (arXiv 2203.15556, eq. 2 and 10).

loss(N, D) = E + A / N^a + B / D^b                 parameters N, tokens D
cheapest at FLOPs = 6 N D:   a A / N^a = b B / D^b
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from outgrow.errors import ConfigError
from outgrow.planning.laws.power import Array, Optimum, PowerCurve, array, check_positive, length_for


@dataclass(frozen=True)
class Chinchilla:
    """`irreducible_loss + A / parameters^a + B / tokens^b`; the parameters that a law was fitted with count.

    >>> round(float(CHINCHILLA.loss(parameters=70e9, tokens=1.4e12)), 3)
    1.937
    """

    irreducible_loss: float
    parameter_coefficient: float
    parameter_exponent: float
    token_coefficient: float
    token_exponent: float

    def __post_init__(self) -> None:
        check_positive(self, zero_allowed=("irreducible_loss",))

    def floor(self, parameters: ArrayLike) -> Array:
        """Loss of this size after endless training."""
        size = self.parameter_coefficient * array(parameters) ** -self.parameter_exponent
        return np.asarray(self.irreducible_loss + size)

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss in nats per token."""
        length = self.token_coefficient * array(tokens) ** -self.token_exponent
        return np.asarray(self.floor(parameters) + length)

    def tokens(self, parameters: ArrayLike, loss: ArrayLike) -> Array:
        """Tokens until this size has this loss; infinity where it never does."""
        return length_for(loss, self.floor(parameters), self._scale_tokens, self.token_exponent)

    def curve(self, parameters: float) -> PowerCurve:
        """The learning curve of one size."""
        return PowerCurve(float(self.floor(parameters)), self._scale_tokens, self.token_exponent)

    def gradient(self, parameters: ArrayLike, tokens: ArrayLike) -> dict[str, Array]:
        """Derivatives of the loss by every constant, and by `parameters` and `tokens`."""
        N, D = np.broadcast_arrays(array(parameters), array(tokens))
        size, length = N**-self.parameter_exponent, D**-self.token_exponent
        A, B = self.parameter_coefficient, self.token_coefficient
        return {
            "irreducible_loss": np.ones_like(size),
            "parameter_coefficient": size,
            "parameter_exponent": -A * size * np.log(N),
            "token_coefficient": length,
            "token_exponent": -B * length * np.log(D),
            "parameters": -self.parameter_exponent * A * size / N,
            "tokens": -self.token_exponent * B * length / D,
        }

    def cheapest(self, loss: float) -> Optimum:
        """The compute-optimal size and length for a loss, at 6 FLOPs per parameter and token.

        >>> best = CHINCHILLA.cheapest(loss=2.0)
        >>> f"{best.parameters:.3g} {best.tokens:.3g}"
        '1.53e+10 1.21e+12'
        """
        excess = loss - self.irreducible_loss
        if excess <= 0:
            raise ConfigError(
                "no size reaches this loss", got=loss, expected=f"more than {self.irreducible_loss:.4g}"
            )
        a, b = self.parameter_exponent, self.token_exponent
        parameters = _root(self.parameter_coefficient * (a + b) / (b * excess), a)
        tokens = _root(self.token_coefficient * (a + b) / (a * excess), b)
        return Optimum(loss, parameters, tokens, 6 * parameters * tokens)

    def best_for_flops(self, flops: float) -> Optimum:
        """The size and length that reach the lowest loss with so many FLOPs (eq. 4 of the paper).

        >>> best = CHINCHILLA.best_for_flops(5.76e23)
        >>> f"{best.parameters:.3g} {best.tokens:.3g}"
        '3.22e+10 2.98e+12'
        """
        a, b = self.parameter_exponent, self.token_exponent
        ratio = (a * self.parameter_coefficient / (b * self.token_coefficient)) ** (1 / (a + b))
        parameters = ratio * (flops / 6) ** (b / (a + b))
        tokens = flops / 6 / parameters
        return Optimum(float(self.loss(parameters, tokens)), parameters, tokens, flops)

    @property
    def _scale_tokens(self) -> float:
        return _root(self.token_coefficient, self.token_exponent)


def _root(value: float, exponent: float) -> float:
    """value ** (1 / exponent), where a number can hold it: an exponent of nearly 0 is no law."""
    try:
        return float(float(value) ** (1 / float(exponent)))
    except OverflowError:
        raise ConfigError(
            "the law's loss hardly falls: one of its exponents is too near to 0",
            got=f"{exponent:.3g}, beside a coefficient of {value:.3g}",
            expected="published exponents are 0.05 to 0.5",
            fix="give other constants, or curves that fall further",
        ) from None


CHINCHILLA = Chinchilla(1.69, 406.4, 0.34, 410.7, 0.28)
"""The published constants (arXiv 2203.15556, eq. 10; approach 3): all parameters, MassiveText."""

CHINCHILLA_REPLICATED = Chinchilla(1.8172, 482.01, 0.3478, 2085.43, 0.3658)
"""The same data fitted again by Besiroglu et al. (arXiv 2404.10102), who found the published fit not converged."""

"""The law of saturation: the longer the base was trained, the less a token of the second stage helps (arXiv 2510.06548).

loss(D1, D2) = A D1^-a1 D2^(-a2 + a3 ln D1) + E          tokens D1 of the base, D2 of the second stage
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from outgrow.planning.laws.power import Array, array, check_positive


@dataclass(frozen=True)
class Saturation:
    """Loss after a second stage (continued or grown) on a base that saw `base_tokens`.

    The paper gives no constants that hold for other models: fit them (`fit_law(FORMS["saturation"], ...)`).

    >>> law = Saturation(irreducible_loss=1.7, coefficient=30.0, base_exponent=0.05, exponent=0.30, interaction=0.005)
    >>> [round(float(law.second_exponent(tokens)), 3) for tokens in (1e8, 1e10)]
    [0.208, 0.185]
    """

    irreducible_loss: float
    coefficient: float
    base_exponent: float
    exponent: float
    interaction: float

    def __post_init__(self) -> None:
        check_positive(self, zero_allowed=("irreducible_loss", "base_exponent", "interaction"))

    def second_exponent(self, base_tokens: ArrayLike) -> Array:
        """How fast the second stage learns: `exponent - interaction * ln(base_tokens)`; at 0 it learns nothing."""
        return np.asarray(self.exponent - self.interaction * np.log(array(base_tokens)))

    def loss(self, base_tokens: ArrayLike, second_tokens: ArrayLike) -> Array:
        """Loss in nats per token."""
        return np.asarray(self.irreducible_loss + self._term(array(base_tokens), array(second_tokens)))

    def second_tokens(self, base_tokens: ArrayLike, loss: ArrayLike) -> Array:
        """Tokens of the second stage until this loss; infinity where it never comes."""
        base, excess = array(base_tokens), array(loss) - self.irreducible_loss
        rate = self.second_exponent(base)
        reached = (excess > 0) & (rate > 0)
        start = self.coefficient * base**-self.base_exponent
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            tokens = (start / np.where(reached, excess, np.nan)) ** (1 / np.where(reached, rate, np.nan))
        return np.asarray(np.where(reached, tokens, np.inf))

    def gradient(self, base_tokens: ArrayLike, second_tokens: ArrayLike) -> dict[str, Array]:
        """Derivatives of the loss by every constant, and by `base_tokens` and `second_tokens`."""
        D1, D2 = np.broadcast_arrays(array(base_tokens), array(second_tokens))
        term = self._term(D1, D2)
        return {
            "irreducible_loss": np.ones_like(term),
            "coefficient": term / self.coefficient,
            "base_exponent": -term * np.log(D1),
            "exponent": -term * np.log(D2),
            "interaction": term * np.log(D1) * np.log(D2),
            "base_tokens": term * (self.interaction * np.log(D2) - self.base_exponent) / D1,
            "second_tokens": -term * self.second_exponent(D1) / D2,
        }

    def _term(self, base: Array, second: Array) -> Array:
        return np.asarray(
            self.coefficient * base**-self.base_exponent * second ** -self.second_exponent(base)
        )

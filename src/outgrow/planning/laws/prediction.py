"""What a fitted law says, and how far it can be trusted: an interval, and whether the question lies outside the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from outgrow.planning.laws.power import Array


@dataclass(frozen=True)
class Interval:
    """A best value and the range that holds the truth with probability `level`.

    >>> print(Interval(2.5, 2.4, 2.7, level=0.9))
    2.5 (90 %: 2.4 to 2.7)
    """

    value: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.level:.0%}: {self.low:.4g} to {self.high:.4g})".replace("%", " %")

    def contains(self, truth: float) -> bool:
        """Whether a number lies inside."""
        return self.low <= truth <= self.high


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a column in the data that a law was fitted to."""

    low: float
    high: float

    def outside(self, value: float) -> bool:
        """Whether this value was never seen; a part in a million is rounding."""
        return not self.low * (1 - 1e-6) <= value <= self.high * (1 + 1e-6)


@dataclass(frozen=True)
class Prediction:
    """A predicted loss. `beyond` names the columns in which the question lies outside the fitted data."""

    loss: Interval
    at: Mapping[str, float]
    beyond: tuple[str, ...]

    @property
    def extrapolated(self) -> bool:
        """Whether the law is asked about what it never saw."""
        return bool(self.beyond)

    def __str__(self) -> str:
        mark = f", extrapolated in {' and '.join(self.beyond)}" if self.beyond else ""
        return f"loss {self.loss}{mark}"


def quantiles(values: Array, best: float, level: float) -> Interval:
    """The middle `level` of bootstrap values; infinite ones count (a loss that some draws never reach)."""
    low, high = (float(np.quantile(values, q, method="nearest")) for q in ((1 - level) / 2, (1 + level) / 2))
    return Interval(best, low, high, level)

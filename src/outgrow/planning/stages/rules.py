"""The published rules for when to grow, as functions of curves.

Shen et al. (arXiv 2203.06211) read the slope of a curve in logarithms,  sigma = d log10 loss / d log10 compute:

    PRE-GROWTH      stop the small model where sigma rises to the operator's threshold
    GROWTH-TARGET   the point of the large model's own curve with the same loss (or the small model's step / a constant)
    OPTIMALITY      stop the large model where sigma rises to -0.052, there it touches the compute-efficient frontier

G_stack (arXiv 2405.15319): log10 tokens = 0.88 log10 N + 163.27 / log10 C - 5.74, factor 4, one hop.
Zero/One-Layer (arXiv 2511.04981): at T - t_mix of a WSD run, t_mix measured on a pilot (0.2 T where it is not).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10

import numpy as np
from numpy.typing import ArrayLike

from outgrow.errors import ConfigError
from outgrow.planning.laws import Array
from outgrow.planning.laws.power import array

OPTIMALITY_SLOPE = -0.052
GSTACK_FACTOR = 4
LATE_SHARE = 0.8


@dataclass(frozen=True)
class ShenRule:
    """Constants of one operator: times as many parameters, slope at PRE-GROWTH, step before / step of the target."""

    parameter_factor: float
    slope: float
    step_ratio: float


SHEN_RULES: Mapping[str, ShenRule] = {
    "depth": ShenRule(2, -0.0575, 1.412),
    "width": ShenRule(4, -0.0475, 1.776),
    "both": ShenRule(8, -0.03, 2.455),
}
"""The released constants (arXiv 2203.06211, code)."""


@dataclass(frozen=True)
class PracticalPoints:
    """The three points on curves against FLOPs, and the saving that they promise: 1 - staged / large from scratch."""

    pre_growth_flops: float
    growth_loss: float
    growth_target_flops: float
    optimality_flops: float
    final_loss: float

    @property
    def staged_flops(self) -> float:
        """Small model to PRE-GROWTH, then large model from GROWTH-TARGET to OPTIMALITY."""
        return self.pre_growth_flops + self.optimality_flops - self.growth_target_flops

    @property
    def saving(self) -> float:
        """Against the large model trained from scratch to OPTIMALITY."""
        return 1 - self.staged_flops / self.optimality_flops


def slopes(compute: ArrayLike, loss: ArrayLike, window: int = 5) -> tuple[Array, Array, Array]:
    """(compute, smoothed loss, sigma) of a measured curve: spikes above 1 % dropped, running mean, differences.

    >>> x = np.geomspace(1, 1e4, 400)
    >>> slopes(x, 3 * x**-0.05)[2][10:12].round(4).tolist()
    [-0.05, -0.05]
    """
    x, y = array(compute), array(loss)
    lowest = np.minimum.accumulate(y)
    calm = y <= 1.01 * lowest
    x, y = x[calm], y[calm]
    if len(x) < window + 2:
        raise ConfigError("too few points to read a slope", got=len(x), expected=f"at least {window + 2}")
    kernel = np.ones(window) / window
    x, y = np.exp(np.convolve(np.log(x), kernel, "valid")), np.convolve(y, kernel, "valid")
    middle = np.sqrt(x[1:] * x[:-1])
    return middle, np.sqrt(y[1:] * y[:-1]), np.diff(np.log(y)) / np.diff(np.log(x))


def first_at_slope(compute: ArrayLike, loss: ArrayLike, slope: float, what: str) -> tuple[float, float]:
    """(compute, loss) at the first point after the steepest at which sigma rises to `slope`."""
    x, y, sigma = slopes(compute, loss)
    steepest = int(np.argmin(sigma))
    after = np.flatnonzero(sigma[steepest:] >= slope)
    if not len(after) or sigma[steepest] >= slope:
        raise ConfigError(
            f"{what}: the curve never rises to the slope {slope}",
            got=f"slopes from {sigma[steepest]:.4f} to {sigma[-1]:.4f}",
            fix="train this size longer",
        )
    k = steepest + int(after[0])
    share = (slope - sigma[k - 1]) / (sigma[k] - sigma[k - 1])
    return (
        float(np.exp(np.log(x[k - 1]) + share * np.log(x[k] / x[k - 1]))),
        float(y[k - 1] + share * (y[k] - y[k - 1])),
    )


def practical_points(
    small: tuple[ArrayLike, ArrayLike],
    large: tuple[ArrayLike, ArrayLike],
    *,
    slope: float,
    optimality_slope: float = OPTIMALITY_SLOPE,
) -> PracticalPoints:
    """The three points from the two sizes' curves from scratch, each (FLOPs, loss)."""
    pre, loss = first_at_slope(*small, slope, "PRE-GROWTH")
    optimality, final = first_at_slope(*large, optimality_slope, "OPTIMALITY")
    x, y = array(large[0]), np.minimum.accumulate(array(large[1]))
    if not y[-1] <= loss <= y[0]:
        raise ConfigError(
            "GROWTH-TARGET: the large curve never has the loss at which the small one is grown",
            got=f"{loss:.4f}",
        )
    target = float(np.exp(np.interp(-np.log(loss), -np.log(y), np.log(x))))
    return PracticalPoints(pre, loss, target, optimality, final)


def gstack_tokens(parameters: float, flops: float) -> float:
    """G_stack's growth timing: tokens of the small model, for the large one's parameters and the whole compute.

    >>> f"{gstack_tokens(parameters=8e9, flops=7.2e23):.3g}"
    '6.58e+09'
    """
    return float(10 ** (0.88 * log10(parameters) + 163.27 / log10(flops) - 5.74))


def late_switch_tokens(total_tokens: float, mixing_tokens: float | None = None) -> float:
    """The latest switch from which a WSD run still arrives: T - t_mix, or 0.8 T where the mixing time is not measured.

    >>> late_switch_tokens(1e9), late_switch_tokens(1e9, mixing_tokens=1e8)
    (800000000.0, 900000000.0)
    """
    if mixing_tokens is None:
        return LATE_SHARE * total_tokens
    if not 0 < mixing_tokens < total_tokens:
        raise ConfigError(
            "the mixing time is longer than the run",
            got=mixing_tokens,
            expected=f"less than {total_tokens:.4g}",
        )
    return total_tokens - mixing_tokens

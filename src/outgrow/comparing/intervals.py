"""What some seeds say about a mean: Student's intervals of 90 %.

of one mean             m ± t(n - 1) · s / √n                       n values that spread by s
of a mean's difference  a - b ± t(ν) · √(s_a²/n_a + s_b²/n_b)       two sets of seeds that share nothing (Welch, 1947)
of what is drawn        m ± t(n - 1) · √(n / (n - 1)) · spread of the draws             a bootstrap over n seeds
ν = (s_a²/n_a + s_b²/n_b)² / (s_a⁴/(n_a²(n_a - 1)) + s_b⁴/(n_b²(n_b - 1)))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, variance


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds and its 90 % interval; one seed has none."""

    mean: float
    low: float | None
    high: float | None


def mean_of_seeds(values: Sequence[float]) -> SeedMean:
    """The mean of some values, one a seed.

    >>> one = mean_of_seeds([1.0, 2.0, 3.0])
    >>> one.mean, round(one.high - one.mean, 4)
    (2.0, 1.6859)
    """
    mean, count = fmean(values), len(values)
    if count < 2:
        return SeedMean(mean, None, None)
    reach = student_95(count - 1) * sqrt(variance(values) / count)
    return SeedMean(mean, mean - reach, mean + reach)


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> SeedMean:
    """How far the mean of one set of seeds lies above another's, as if their seeds had nothing in common.

    Degrees of freedom are rounded down, which widens the interval.

    >>> one = difference_of_means([5.0, 6.0, 7.0], [1.0, 2.0, 3.0])
    >>> one.mean, round(one.high - one.mean, 4)
    (4.0, 1.7408)
    """
    difference = fmean(first) - fmean(second)
    if min(len(first), len(second)) < 2:
        return SeedMean(difference, None, None)
    errors = [variance(values) / len(values) for values in (first, second)]
    total = sum(errors)
    if total == 0:
        return SeedMean(difference, difference, difference)
    parts = sum(error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True))
    # Rounding may bring a whole number to just below itself.
    degrees = max(1, int(total**2 / parts * (1 + 1e-12)))
    reach = student_95(degrees) * sqrt(total)
    return SeedMean(difference, difference - reach, difference + reach)


def bootstrapped(mean: float, spread: float, count: int) -> SeedMean:
    """A mean over so many seeds, whose value spreads so much over draws of them with replacement.

    Widened by t(n - 1) · √(n / (n - 1)): a plain bootstrap of three seeds is too narrow.

    >>> one = bootstrapped(0.1, 0.02, 3)
    >>> round(one.high - one.mean, 4)
    0.0715
    """
    if count < 2:
        return SeedMean(mean, None, None)
    reach = student_95(count - 1) * sqrt(count / (count - 1)) * spread
    return SeedMean(mean, mean - reach, mean + reach)


def student_95(degrees: int) -> float:
    """95 % quantile of Student's t: a table, and beyond it the expansion in 1 / degrees (Fisher and Cornish, 1960).

    >>> student_95(2), round(student_95(29), 3)
    (2.92, 1.699)
    """
    if degrees <= len(_STUDENT_95):
        return _STUDENT_95[degrees - 1]
    z = NormalDist().inv_cdf(0.95)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


_STUDENT_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
"""For 1, 2, 3 ... degrees of freedom."""

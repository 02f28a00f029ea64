"""Decayed losses over compute, and the curve through them that a saving is read off.

    L(log C) = the monotone cubic through the budgets (Fritsch & Butland, SIAM J. Sci. Stat. Comput. 5, 1984)
    slope at a budget = weighted harmonic mean of the chords beside it; at the ends a parabola's, kept monotone

Losses fall convexly. A chord lies above such a curve, so straight lines would put C_scratch 1 to 3 % too high and flatter every
growth; the cubic is within 0.6 % on power laws (`tests/compare/test_frontier.py`). Nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FrontierSide = Literal["inside", "better than every budget", "worse than every budget"]


@dataclass(frozen=True)
class Frontier:
    """Decayed losses (nats) of one arm at increasing compute (FLOPs or seconds): one row per seed, one column per budget."""

    compute: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.compute) for row in self.losses)
        assert list(self.compute) == sorted(self.compute)

    def mean(self, seeds: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Mean loss per budget over some seeds (all, if not said)."""
        table = np.asarray(self.losses, dtype=np.float64)
        return np.asarray((table if seeds is None else table[seeds]).mean(axis=0))


@dataclass(frozen=True)
class MonotoneCurve:
    """A monotone cubic through knots whose values only fall, or stay.

    >>> curve = MonotoneCurve.through([0.0, 1.0, 2.0], [4.0, 2.0, 1.0])
    >>> curve.at(1.0), round(curve.at(0.5), 3)
    (2.0, 2.854)
    >>> round(curve.where(curve.at(0.5)), 9)
    0.5
    """

    places: tuple[float, ...]
    values: tuple[float, ...]
    slopes: tuple[float, ...]

    @staticmethod
    def through(places: Sequence[float], values: Sequence[float]) -> MonotoneCurve:
        """The curve through at least one knot, places increasing, values not."""
        return MonotoneCurve(tuple(places), tuple(values), tuple(_slopes(places, values)))

    def at(self, place: float) -> float:
        """The value at a place between the first and the last knot."""
        return self._inside(max(0, _first(one >= place for one in self.places) - 1), place)

    def where(self, value: float) -> float:
        """The first place with a value between the last knot's and the first's."""
        knot = _first(one <= value for one in self.values)
        if knot == 0 or self.values[knot] == value:
            return self.places[knot]
        low, high = self.places[knot - 1], self.places[knot]
        for _ in range(50):  # halvings: the width of a piece times 1e-15
            middle = (low + high) / 2
            low, high = (middle, high) if self._inside(knot - 1, middle) > value else (low, middle)
        return (low + high) / 2

    def _inside(self, knot: int, place: float) -> float:
        """Of the piece that begins at a knot: Hermite's cubic."""
        if len(self.places) == 1:
            return self.values[0]
        width = self.places[knot + 1] - self.places[knot]
        t = (place - self.places[knot]) / width
        rise = self.values[knot + 1] - self.values[knot]
        left, right = width * self.slopes[knot] - rise, rise - width * self.slopes[knot + 1]
        return self.values[knot] + t * rise + t * (1 - t) * ((1 - t) * left + t * right)


def _first(holds: Iterable[bool]) -> int:
    return next(place for place, one in enumerate(holds) if one)


def curve_of(compute: Sequence[float], losses: NDArray[np.float64]) -> MonotoneCurve:
    """The curve over log compute, or log tokens. A budget that is worse than a smaller one does not help: it runs through the running minimum."""
    return MonotoneCurve.through([log(one) for one in compute], np.minimum.accumulate(losses).tolist())


def compute_at(
    compute: Sequence[float], losses: NDArray[np.float64], loss: float
) -> tuple[float | None, FrontierSide]:
    """The compute at which a frontier reaches a loss.

    >>> round(compute_at([1e12, 1e14], np.array([4.0, 3.0]), 3.5)[0] / 1e13, 6)
    1.0
    >>> compute_at([1e12, 1e14], np.array([4.0, 3.0]), 2.9)
    (None, 'better than every budget')
    """
    curve = curve_of(compute, losses)
    best, worst = curve.values[-1], curve.values[0]
    if loss < best - 1e-12:
        return None, "better than every budget"
    if loss > worst + 1e-12:
        return None, "worse than every budget"
    return exp(curve.where(min(max(loss, best), worst))), "inside"


def best_of(frontiers: Sequence[Frontier]) -> tuple[tuple[float, ...], NDArray[np.float64]]:
    """The envelope of several scratch sizes: at every compute of any of them, the best mean loss reached so far."""
    best: dict[float, float] = {}
    for frontier in frontiers:
        for compute, loss in zip(frontier.compute, frontier.mean().tolist(), strict=True):
            best[compute] = min(loss, best.get(compute, loss))
    places = sorted(best)
    return tuple(places), np.minimum.accumulate(np.array([best[place] for place in places]))


def least_compute(frontiers: Sequence[Frontier], loss: float) -> tuple[float | None, FrontierSide]:
    """The least compute at which any of several sizes reaches a loss: on its own curve, or on that through the best ends of all.

    A size whose smallest budget is already better counts with that budget: it needs no more.

    >>> small, large = Frontier((1e12, 4e12), ((4.0, 3.5),)), Frontier((2e12, 8e12), ((4.1, 3.1),))
    >>> round(least_compute([small, large], 3.6)[0] / 1e12, 3)
    3.031
    """
    found = [compute_at(one.compute, one.mean(), loss) for one in frontiers]
    found.append(compute_at(*best_of(frontiers), loss))
    enough = [
        one.compute[0]
        for one, (_, side) in zip(frontiers, found, strict=False)
        if side == "worse than every budget"
    ]
    inside = [compute for compute, _ in found if compute is not None]
    if not inside:
        return found[-1]
    return min(inside + enough), "inside"


def _slopes(places: Sequence[float], values: Sequence[float]) -> list[float]:
    widths = [right - left for left, right in pairwise(places)]
    chords = [(right - left) / width for (left, right), width in zip(pairwise(values), widths, strict=True)]
    if len(chords) < 2:
        return [*chords, *chords] or [0.0]
    pairs = zip(pairwise(widths), pairwise(chords), strict=True)
    inner = [_harmonic(*two_widths, *two_chords) for two_widths, two_chords in pairs]
    return [_end(*widths[:2], *chords[:2]), *inner, _end(*widths[:-3:-1], *chords[:-3:-1])]


def _harmonic(before: float, after: float, chord_before: float, chord_after: float) -> float:
    """Zero beside a flat chord, which keeps the curve monotone."""
    if chord_before * chord_after <= 0:
        return 0.0
    first, second = 2 * after + before, after + 2 * before
    return (first + second) / (first / chord_before + second / chord_after)


def _end(near: float, far: float, chord: float, next_chord: float) -> float:
    """The slope at an end of the parabola through three knots, between 0 and three times the chord's."""
    slope = ((2 * near + far) * chord - near * next_chord) / (near + far)
    return chord * min(max(slope / chord, 0.0), 3.0) if chord else 0.0

"""The same runs, read as papers read theirs: on curves whose rate has not decayed, and at the target's OPTIMALITY.

    undecayed    1 - C_arm / C_scratch(L_arm)     L at the end of a trunk, before its decay; everything counted
    optimality   the same at one loss L*, where the baseline's undecayed curve rises to d ln L / d ln C = -0.052

OPTIMALITY is where Staged Training stops its target model (Shen et al., arXiv 2203.06211): there the curve touches the frontier of
least compute. The other readings, the small model sunk and equal steps, are in `saving.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outgrow.comparing.frontier import Frontier, compute_at, curve_of
from outgrow.comparing.intervals import SeedMean, mean_of_seeds
from outgrow.errors import ConfigError
from outgrow.planning.stages.rules import OPTIMALITY_SLOPE, first_at_slope

_PLACES = 400
"""Of the curve at which its slope is read."""


@dataclass(frozen=True)
class Optimality:
    """Where the baseline's undecayed curve rises to the slope of -0.052: its loss in nats and the baseline's FLOPs."""

    flops: float
    loss: float


def optimality_of(scratch: Frontier) -> Optimality | None:
    """OPTIMALITY of an undecayed frontier, on the mean over its seeds; None where it never rises to that slope.

    >>> compute = tuple(np.geomspace(1e12, 1e14, 30))
    >>> losses = tuple(2.0 + 1.5 * (one / 1e12) ** -0.3 for one in compute)
    >>> found = optimality_of(Frontier(compute, (losses,)))
    >>> share = 1 - 2.0 / found.loss        # of the loss that still falls: 0.3 times it is the slope
    >>> round(0.3 * share, 3)
    0.052
    """
    if len(scratch.compute) < 2:
        return None
    curve = curve_of(scratch.compute, scratch.mean())
    places = np.linspace(curve.places[0], curve.places[-1], _PLACES)
    losses = [curve.at(place) for place in places.tolist()]
    try:
        return Optimality(*first_at_slope(np.exp(places), losses, OPTIMALITY_SLOPE, "OPTIMALITY"))
    except ConfigError:  # it does not rise to the slope: that is the answer
        return None


def saved_at(arm: Sequence[Frontier], scratch: Sequence[Frontier], loss: float) -> SeedMean | None:
    """The saving at a loss, mean over seeds; both sides are frontiers of one seed each, in the same order of seeds.

    None where a seed of either does not come to this loss.

    >>> full = [Frontier((1e12, 4e12), ((4.0, 3.0),))]
    >>> round(saved_at([Frontier((5e11, 2e12), ((4.0, 3.0),))], full, 3.5).mean, 6)
    0.5
    """
    pairs = [
        (compute_at(one.compute, one.mean(), loss)[0], compute_at(full.compute, full.mean(), loss)[0])
        for one, full in zip(arm, scratch, strict=True)
    ]
    known = [1 - mine / theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    return mean_of_seeds(known) if len(known) == len(pairs) else None

"""Where an arm changes length or batch in mid-run: what of its saving the schedule saves, and what the growth.

C_scratch, C_twin   compute at which the baseline, and the same model with the arm's schedule, reach the arm's loss
saved in all      = 1 - C_arm / C_scratch
by the schedule   = 1 - C_twin / C_scratch            what a user has without any growth
by the growth     = (C_twin - C_arm) / C_scratch      what is added to it;  all = schedule + growth
growth alone      = 1 - C_arm / C_twin                against one who has the schedule already
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from outgrow.comparing.frontier import Frontier, FrontierSide, compute_at
from outgrow.comparing.intervals import SeedMean, bootstrapped


@dataclass(frozen=True)
class SavingParts:
    """One arm at one budget; every part as a share of the baseline's compute, but `alone`, a share of the twin's."""

    compute: float
    loss: float
    whole: SeedMean
    schedule: SeedMean
    growth: SeedMean
    alone: SeedMean


@dataclass(frozen=True)
class NoParts:
    """One budget whose loss lies outside a frontier: whose, and on which side; and whether the twin did better for no more."""

    frontier: Literal["baseline", "twin"]
    side: FrontierSide
    beaten: bool = False


def parts_of(arm: Frontier, twin: Frontier, scratch: Frontier) -> tuple[SavingParts | NoParts, ...]:
    """Every budget of an arm.

    Intervals are as those of `saving.savings`, all three arms drawn together: seed i of each saw the same data.

    >>> full, twin = Frontier((1e12, 4e12), ((4.0, 3.0),)), Frontier((8e11, 3.2e12), ((4.0, 3.0),))
    >>> (one,) = parts_of(Frontier((1.2e12,), ((3.5,),)), twin, full)
    >>> [round(part.mean, 6) for part in (one.whole, one.schedule, one.growth, one.alone)]
    [0.4, 0.2, 0.2, 0.25]
    """
    return tuple(_at_budget(arm, twin, scratch, place) for place in range(len(arm.compute)))


def _at_budget(arm: Frontier, twin: Frontier, scratch: Frontier, place: int) -> SavingParts | NoParts:
    compute, loss, count = arm.compute[place], float(arm.mean()[place]), len(arm.losses)
    equal, side = compute_at(scratch.compute, scratch.mean(), loss)
    if equal is None:
        return NoParts("baseline", side)
    same, side = compute_at(twin.compute, twin.mean(), loss)
    if same is None:
        beaten = side == "worse than every budget" and twin.compute[0] <= compute
        return NoParts("twin", side, beaten)
    means = _shares(arm, twin, scratch, place, np.arange(count))
    assert means is not None, "both frontiers have the loss"
    draws = [_shares(arm, twin, scratch, place, pick) for pick in _picks(count)]
    spreads = np.array([one for one in draws if one is not None]).std(axis=0)
    parts = [bootstrapped(*pair, count) for pair in zip(means, spreads.tolist(), strict=True)]
    return SavingParts(compute, loss, *parts)


def _shares(
    arm: Frontier, twin: Frontier, scratch: Frontier, place: int, pick: NDArray[np.int64]
) -> tuple[float, float, float, float] | None:
    """All, schedule, growth and growth alone over some seeds; None where one of them has no place on a frontier."""
    loss = float(arm.mean(pick)[place])
    equal, _ = compute_at(scratch.compute, scratch.mean(pick), loss)
    same, _ = compute_at(twin.compute, twin.mean(pick), loss)
    if equal is None or same is None:
        return None
    own = arm.compute[place]
    return 1 - own / equal, 1 - same / equal, (same - own) / equal, 1 - own / same


def _picks(count: int, draws: int = 1000) -> Sequence[NDArray[np.int64]]:
    """Seeds drawn with replacement: every way there is, where there are not too many."""
    if count**count <= draws:
        return [np.array(pick) for pick in product(range(count), repeat=count)]
    random = np.random.Generator(np.random.PCG64(0))
    return list(random.integers(0, count, (draws, count)))

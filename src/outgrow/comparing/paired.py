"""An arm against the baseline seed by seed: seed i of both saw the same data in the same order.

    saving of seed i     = 1 - C_arm,i / C_scratch,i(L_arm,i)        on the seed's own curve from scratch
    difference of seed i = L_arm,i - L_scratch,i(C_arm,i)            nats at equal FLOPs; below 0 the arm is ahead
    paired               = mean over seeds ± t(n - 1) · s / √n       (`intervals.py`)

What the data of a seed do to both falls out of these; an interval of two means keeps it in. Both are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from outgrow.comparing.frontier import Frontier, compute_at, curve_of
from outgrow.comparing.intervals import SeedMean, difference_of_means, mean_of_seeds


@dataclass(frozen=True)
class PairedDifference:
    """One arm at one budget. None where a seed lies outside its own baseline: a mean without it would choose seeds."""

    savings: tuple[float | None, ...]
    """One a seed."""
    saving: SeedMean | None
    losses: tuple[float, ...] | None
    """Difference of every seed in nats."""
    loss: SeedMean | None
    loss_of_two_means: SeedMean | None
    """The same difference, as if the seeds of both arms had nothing in common."""


def paired_differences(arm: Sequence[Frontier], scratch: Sequence[Frontier]) -> tuple[PairedDifference, ...]:
    """Every budget of an arm; both sides are frontiers of one seed each, in the same order of seeds.

    >>> arm = [Frontier((1.0,), ((3.0,),)), Frontier((1.0,), ((3.1,),))]
    >>> full = [Frontier((1.0, 2.0), ((3.2, 3.0),)), Frontier((1.0, 2.0), ((3.3, 3.1),))]
    >>> (one,) = paired_differences(arm, full)
    >>> [round(saving, 6) for saving in one.savings], round(one.loss.high, 6), one.loss_of_two_means.high > 0
    ([0.5, 0.5], -0.2, True)
    """
    return tuple(_at_budget(arm, scratch, place) for place in range(len(arm[0].compute)))


def _at_budget(arm: Sequence[Frontier], scratch: Sequence[Frontier], place: int) -> PairedDifference:
    ends = [(one.compute[place], one.losses[0][place]) for one in arm]
    savings = tuple(
        None if (equal := compute_at(full.compute, full.mean(), loss)[0]) is None else 1 - compute / equal
        for (compute, loss), full in zip(ends, scratch, strict=True)
    )
    known = [one for one in savings if one is not None]
    saving = mean_of_seeds(known) if len(known) == len(savings) else None
    within = all(
        full.compute[0] <= compute <= full.compute[-1]
        for (compute, _), full in zip(ends, scratch, strict=True)
    )
    if not within:
        return PairedDifference(savings, saving, None, None, None)
    own = [loss for _, loss in ends]
    full = [
        curve_of(one.compute, one.mean()).at(log(compute))
        for (compute, _), one in zip(ends, scratch, strict=True)
    ]
    losses = tuple(mine - theirs for mine, theirs in zip(own, full, strict=True))
    return PairedDifference(savings, saving, losses, mean_of_seeds(losses), difference_of_means(own, full))

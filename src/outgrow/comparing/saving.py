"""The figure of merit: compute saved at equal decayed loss, with an interval over seeds.

    saving   = 1 - C_staged / C_scratch(L_staged)
    speed-up = C_scratch(L_staged) / C_staged - 1

C_scratch(L) is read off the scratch frontier, the decayed losses at several budgets (`frontier.py`). It is never extrapolated: a
loss outside the frontier has no saving, only a side on which it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
from numpy.typing import NDArray

from outgrow.comparing.frontier import Frontier, FrontierSide, compute_at, curve_of
from outgrow.comparing.intervals import bootstrapped, student_95


@dataclass(frozen=True)
class Saving:
    """One arm at one budget against the scratch frontier. `saving` is None where its loss lies outside the frontier."""

    compute: float
    loss: float
    saving: float | None
    low: float | None
    high: float | None
    speed_up: float | None
    side: FrontierSide
    inside: float
    """Share of the bootstrap draws whose loss lay on the frontier; the interval is over these. One seed has no interval."""


@lru_cache(maxsize=256)  # a report asks for each of them many times
def savings(
    arm: Frontier, scratch: Frontier, *, draws: int = 1000, paired: bool = True
) -> tuple[Saving, ...]:
    """The saving at every budget of an arm, with a 90 % interval over the seeds of both arms.

    Seeds are drawn with replacement, in pairs where both arms have the same number: seed i of both arms saw the same data.
    `paired=False` draws them apart, as if they were of two studies: the interval of two means. The spread of the draws is widened
    for the smaller number of seeds (`intervals.bootstrapped`).

    >>> curve = Frontier((1e12, 2e12, 4e12), ((4.0, 3.8, 3.6),) * 3)
    >>> [abs(round(one.saving, 6)) for one in savings(curve, curve)]
    [0.0, 0.0, 0.0]
    """
    random = np.random.Generator(np.random.PCG64(0))
    count = min(len(arm.losses), len(scratch.losses))
    picks = random.integers(0, len(arm.losses), (draws, len(arm.losses)))
    paired = paired and len(arm.losses) == len(scratch.losses)
    others = picks if paired else random.integers(0, len(scratch.losses), (draws, len(scratch.losses)))
    return tuple(_saving(arm, scratch, place, picks, others, count) for place in range(len(arm.compute)))


def _saving(
    arm: Frontier,
    scratch: Frontier,
    place: int,
    picks: NDArray[np.int64],
    others: NDArray[np.int64],
    count: int,
) -> Saving:
    compute, loss = arm.compute[place], float(arm.mean()[place])
    equal, side = compute_at(scratch.compute, scratch.mean(), loss)
    # Few seeds have few different draws: each is read off the curve once.
    different, which = np.unique(np.hstack([np.sort(picks), np.sort(others)]), axis=0, return_inverse=True)
    drawn = [
        compute_at(
            scratch.compute,
            scratch.mean(draw[picks.shape[1] :]),
            float(arm.mean(draw[: picks.shape[1]])[place]),
        )[0]
        for draw in different
    ]
    values = np.array([1 - compute / one for one in (drawn[draw] for draw in which) if one is not None])
    low = high = saving = speed_up = None
    if equal is not None:
        saving, speed_up = 1 - compute / equal, equal / compute - 1
        if count > 1 and len(values) > 1:
            around = bootstrapped(saving, float(values.std()), count)
            low, high = around.low, around.high
    return Saving(compute, loss, saving, low, high, speed_up, side, len(values) / len(picks))


@dataclass(frozen=True)
class EqualTokens:
    """One arm at one budget against scratch at the same number of tokens, those of the small stages included."""

    tokens: int
    saving: float | None
    """1 - C_arm / C_scratch(tokens); None where the baseline was not trained on so many or so few tokens."""
    loss_difference: float | None
    """L_arm - L_scratch(tokens) in nats: above 0, part of the saving was paid for with loss."""

    @property
    def speed_up(self) -> float | None:
        """C_scratch(tokens) / C_arm - 1."""
        return None if self.saving is None else 1 / (1 - self.saving) - 1


def at_equal_tokens(
    arm: Frontier, tokens: Sequence[int], scratch: Frontier, scratch_tokens: Sequence[int]
) -> tuple[EqualTokens, ...]:
    """Every budget of an arm at equal tokens; the baseline's loss is read off its curve over log tokens.

    >>> arm, full = Frontier((6e11,), ((3.9,),)), Frontier((1e12, 4e12), ((4.0, 3.6),))
    >>> (one,) = at_equal_tokens(arm, [1000], full, [1000, 4000])
    >>> round(one.saving, 6), round(one.loss_difference, 6)
    (0.4, -0.1)
    """
    found = []
    logs, losses = np.log(scratch_tokens), curve_of(scratch_tokens, scratch.mean())
    for place, count in enumerate(tokens):
        if not scratch_tokens[0] <= count <= scratch_tokens[-1]:
            found.append(EqualTokens(count, None, None))
            continue
        equal = float(
            np.exp(np.interp(np.log(count), logs, np.log(scratch.compute)))
        )  # a token costs the same throughout
        loss = losses.at(log(count))
        found.append(EqualTokens(count, 1 - arm.compute[place] / equal, float(arm.mean()[place]) - loss))
    return tuple(found)


def seeds_for(saving: Saving, seeds: int, half_width: float) -> int | None:
    """About how many seeds would bring the interval to ± `half_width`, if they spread as these `seeds` do.

        t(n - 1) · s / √n <= half_width        s = √seeds · (high - low) / 2 / t(seeds - 1)

    For planning a study; to add seeds until a bound lies where one wants it is no measurement. None without an interval,
    and beyond 1,000.

    >>> one = Saving(1.0, 3.0, 0.2, 0.1, 0.3, 0.25, "inside", 1.0)
    >>> seeds_for(one, 3, 0.05), seeds_for(one, 3, 0.1)
    (6, 3)
    """
    if saving.low is None or saving.high is None:
        return None
    spread = seeds**0.5 * (saving.high - saving.low) / 2 / student_95(seeds - 1)
    limit = half_width * (1 + 1e-9)  # these seeds' own half width, computed back, is itself but for rounding
    return next((n for n in range(2, 1001) if student_95(n - 1) * spread / n**0.5 <= limit), None)

"""The figure of merit: compute saved at equal decayed loss, with an interval over seeds.

    saving   = 1 - C_staged / C_scratch(L_staged)
    speed-up = C_scratch(L_staged) / C_staged - 1

C_scratch(L) is read off the scratch frontier, the decayed losses at several budgets, made monotone and interpolated
linearly in (log C, L). It is never extrapolated: a loss outside the frontier has no saving, only a side on which it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["inside", "better than every budget", "worse than every budget"]


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


def compute_at(
    compute: Sequence[float], losses: NDArray[np.float64], loss: float
) -> tuple[float | None, Side]:
    """The compute at which a frontier reaches a loss.

    A budget that is worse than a smaller one does not help: the frontier is the running minimum.

    >>> round(compute_at([1e12, 1e14], np.array([4.0, 3.0]), 3.5)[0] / 1e13, 6)
    1.0
    >>> compute_at([1e12, 1e14], np.array([4.0, 3.0]), 2.9)
    (None, 'better than every budget')
    """
    best = np.minimum.accumulate(losses)
    if loss < best[-1] - 1e-12:
        return None, "better than every budget"
    if loss > best[0] + 1e-12:
        return None, "worse than every budget"
    place = int(np.argmax(best <= loss + 1e-12))  # the first budget that is good enough
    if place == 0:
        return float(compute[0]), "inside"
    high, low = best[place - 1], best[place]
    share = (high - loss) / (high - low)
    logs = np.log(np.asarray(compute, dtype=np.float64))
    return float(np.exp(logs[place - 1] + share * (logs[place] - logs[place - 1]))), "inside"


@dataclass(frozen=True)
class Saving:
    """One arm at one budget against the scratch frontier. `saving` is None where its loss lies outside the frontier."""

    compute: float
    loss: float
    saving: float | None
    low: float | None
    high: float | None
    speed_up: float | None
    side: Side
    inside: float
    """Share of the bootstrap draws whose loss lay on the frontier; the interval is over these. One seed has no interval."""


def savings(arm: Frontier, scratch: Frontier, *, draws: int = 1000) -> tuple[Saving, ...]:
    """The saving at every budget of an arm, with a 90 % interval over the seeds of both arms.

    Seeds are drawn with replacement, in pairs where both arms have the same number: seed i of both arms saw the same data.
    The spread of the draws is widened to a Student interval, because a plain bootstrap of three seeds is too narrow:

        saving ± t(n - 1) · √(n / (n - 1)) · standard deviation of the draws        n: the smaller number of seeds

    >>> curve = Frontier((1e12, 2e12, 4e12), ((4.0, 3.8, 3.6),) * 3)
    >>> [abs(round(one.saving, 6)) for one in savings(curve, curve)]
    [0.0, 0.0, 0.0]
    """
    random = np.random.Generator(np.random.PCG64(0))
    count = min(len(arm.losses), len(scratch.losses))
    picks = random.integers(0, len(arm.losses), (draws, len(arm.losses)))
    paired = len(arm.losses) == len(scratch.losses)
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
    drawn = [
        compute_at(scratch.compute, scratch.mean(other), float(arm.mean(pick)[place]))[0]
        for pick, other in zip(picks, others, strict=True)
    ]
    values = np.array([1 - compute / one for one in drawn if one is not None])
    low = high = saving = speed_up = None
    if equal is not None:
        saving, speed_up = 1 - compute / equal, equal / compute - 1
        if count > 1 and len(values) > 1:
            reach = _STUDENT_95[min(count - 1, len(_STUDENT_95)) - 1] * (count / (count - 1)) ** 0.5
            low, high = saving - reach * float(values.std()), saving + reach * float(values.std())
    return Saving(compute, loss, saving, low, high, speed_up, side, len(values) / len(picks))


@dataclass(frozen=True)
class EqualTokens:
    """One arm at one budget against scratch at the same number of tokens, those of the small stages included."""

    tokens: int
    saving: float | None
    """1 - C_arm / C_scratch(tokens); None where the baseline was not trained on so many or so few tokens."""
    loss_difference: float | None
    """L_arm - L_scratch(tokens) in nats: above 0, part of the saving was paid for with loss."""


def at_equal_tokens(
    arm: Frontier, tokens: Sequence[int], scratch: Frontier, scratch_tokens: Sequence[int]
) -> tuple[EqualTokens, ...]:
    """Every budget of an arm at equal tokens; the baseline's compute and loss are interpolated over log tokens.

    >>> arm, full = Frontier((6e11,), ((3.9,),)), Frontier((1e12, 4e12), ((4.0, 3.6),))
    >>> (one,) = at_equal_tokens(arm, [1000], full, [1000, 4000])
    >>> round(one.saving, 6), round(one.loss_difference, 6)
    (0.4, -0.1)
    """
    found = []
    logs = np.log(np.asarray(scratch_tokens, dtype=np.float64))
    for place, count in enumerate(tokens):
        if not scratch_tokens[0] <= count <= scratch_tokens[-1]:
            found.append(EqualTokens(count, None, None))
            continue
        equal = float(np.exp(np.interp(np.log(count), logs, np.log(scratch.compute))))
        loss = float(np.interp(np.log(count), logs, scratch.mean()))
        found.append(EqualTokens(count, 1 - arm.compute[place] / equal, float(arm.mean()[place]) - loss))
    return tuple(found)


_STUDENT_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
"""95 % quantile of Student's t for 1, 2, 3 ... degrees of freedom."""


def best_of(frontiers: Sequence[Frontier]) -> tuple[tuple[float, ...], NDArray[np.float64]]:
    """The envelope of several scratch sizes: at every compute of any of them, the best mean loss reached so far."""
    points = sorted(
        (compute, float(loss))
        for frontier in frontiers
        for compute, loss in zip(frontier.compute, frontier.mean(), strict=True)
    )
    losses = np.minimum.accumulate(np.array([loss for _, loss in points]))
    return tuple(compute for compute, _ in points), losses

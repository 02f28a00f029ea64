"""What limits a saving: what a token of the small stages is worth, and what it costs.

    saving = share · (worth - cost)
    share  = T_small / T_equal                        T_equal: the baseline's tokens at the arm's loss
    worth  = (C_equal - C_last) / (f · T_small)       f = C_equal / T_equal: FLOPs of a token of the baseline
    cost   = (C - C_last) / (f · T_small)             C_last: FLOPs of the last stage, the growth among them

Worth 1 means that the small stage stands for as many tokens of the baseline; a growth saves where the worth is above the cost.
The saving with the small model sunk is share · worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from outgrow.comparing.saving import Saving


@dataclass(frozen=True)
class Worth:
    """What the tokens of the small stages came to, at one budget of an arm."""

    tokens: int
    """Of all stages before the last, mean over seeds."""
    share: float
    """Of the tokens with which the baseline reaches the arm's loss."""
    worth: float
    """In tokens of the baseline; below 0 where the growth does harm."""
    low: float | None
    """Of the 90 % interval over seeds, that of the sunk saving to first order; None with one seed."""
    high: float | None
    cost: float
    """In tokens of the baseline."""


def worth_of(paid: Saving, sunk: Saving, small_tokens: int, token_flops: float) -> Worth | None:
    """One budget of an arm, from its saving with everything counted and the one with the small stages sunk.

    `small_tokens`: of all stages before the last; `token_flops`: of the baseline's model. None where the loss lies outside the
    baseline's frontier, or nothing came before the last stage.

    >>> paid = Saving(7e12, 3.0, 0.3, None, None, None, "inside", 1.0)
    >>> sunk = Saving(6e12, 3.0, 0.4, None, None, None, "inside", 1.0)
    >>> one = worth_of(paid, sunk, 5_000_000, 1e6)
    >>> round(one.share, 6), round(one.worth, 6), round(one.cost, 6), round(one.share * (one.worth - one.cost), 6)
    (0.5, 0.8, 0.2, 0.3)
    """
    if sunk.saving is None or not small_tokens:
        return None
    small, equal = token_flops * small_tokens, sunk.compute / (1 - sunk.saving)
    share = small / equal
    worth = sunk.saving / share
    slope = equal / (1 - sunk.saving) / small  # d worth / d sunk saving, C_equal being what the seeds move
    return Worth(
        tokens=small_tokens,
        share=share,
        worth=worth,
        low=None if sunk.low is None else worth + slope * (sunk.low - sunk.saving),
        high=None if sunk.high is None else worth + slope * (sunk.high - sunk.saving),
        cost=(paid.compute - sunk.compute) / small,
    )

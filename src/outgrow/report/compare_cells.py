"""Cells of a study's tables: a share, a saving, a mean over seeds, each with its interval where it has one."""

from __future__ import annotations

from outgrow.comparing.intervals import SeedMean
from outgrow.comparing.saving import Saving


def percent(value: float) -> str:
    """A share in percent.

    >>> percent(0.2214), percent(-1e-9)
    ('22.1 %', '0.0 %')
    """
    return f"{100 * value + 0.0:.1f} %".replace("-0.0 %", "0.0 %")


def saved_cell(one: Saving) -> str:
    """The saving and its interval, or on which side of the baseline's frontier the loss lies."""
    if one.saving is None:
        return one.side
    if one.low is None or one.high is None:
        return percent(one.saving)
    return f"{percent(one.saving)} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def mean_cell(found: SeedMean | None, *, scale: float = 1, form: str = ".1f", unit: str = "") -> str:
    """A mean over seeds and its interval; None is outside the baseline's frontier.

    >>> mean_cell(SeedMean(0.1, 0.05, 0.15), scale=100, unit=" %"), mean_cell(SeedMean(-0.02, None, None), form="+.3f")
    ('10.0 % (5.0 to 15.0)', '-0.020')
    """
    if found is None:
        return "outside"
    if found.low is None or found.high is None:
        return f"{scale * found.mean:{form}}{unit}"
    return f"{scale * found.mean:{form}}{unit} ({scale * found.low:{form}} to {scale * found.high:{form}})"

"""What a growth operator costs, measured on a pilot: a run that grows, beside the curve of the grown size from scratch.

    loss gap       = loss after growth - loss before
    lost tokens(L) = tokens since growth until L - (own curve's tokens at L - own curve's tokens at the loss after growth)

The second is read at every point of the grown run whose loss the own curve has, and is the amount by which `problem.py`'s
assumption (a grown model joins its size's curve where it starts) falls short. It settles while the run goes on; the plan
takes its value at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from outgrow.errors import ConfigError
from outgrow.planning.curves.falling import FallingCurve
from outgrow.planning.curves.grown import FEWEST, GrownCurve
from outgrow.planning.laws.power import Array
from outgrow.planning.stages.problem import OperatorCost

_START_SHARE = 0.1
"""The own curve's place of the loss after growth may be unknown by at most this share of the tokens since growth."""


@dataclass(frozen=True)
class PilotCost:
    """One pilot run's reading of an operator's cost."""

    source: str
    own: str
    """Where the grown size's own curve comes from."""
    config: Mapping[str, Any] = field(hash=False)
    small: Mapping[str, Any] | None = field(hash=False)
    loss_gap: float
    """Nats per token; negative where the growth helped at once."""
    tokens: Array
    """Since the growth, at each reading."""
    lost: Array
    """Lost tokens at each reading; negative where the grown model was faster than its own size's curve."""
    flops: float
    """Of the growth itself."""
    notes: tuple[str, ...] = ()

    @property
    def lost_tokens(self) -> float:
        """At the end of the run: the median of the last quarter of the readings, as one reading jitters."""
        return float(np.median(self.lost[-max(1, len(self.lost) // 4) :]))

    @property
    def last_half(self) -> tuple[float, float]:
        """Least and most lost tokens over the last half of the tokens since growth."""
        late = self.lost[self.tokens >= self.tokens[-1] / 2]
        return float(late.min()), float(late.max())


def pilot_cost(grown: GrownCurve, own: FallingCurve) -> PilotCost:
    """Read the cost of the growth off both curves; never extrapolated.

    Raises `ConfigError` where the curves have fewer than five losses in common, and where the grown model starts outside
    its own curve: below it, or so far above that its place there is unknown by more than a tenth of the pilot.
    """
    start, notes = _start(grown, own)
    there = own.tokens(grown.loss)
    known = np.isfinite(there)
    above, below = int((grown.loss > own.highest).sum()), int((grown.loss < own.lowest).sum())
    if known.sum() < FEWEST:
        raise ConfigError(
            f"{grown.source} and {own.source}: the two curves have too few losses in common, and are not extrapolated",
            got=f"{int(known.sum())} points; after the growth {grown.loss.max():.4f} to {grown.loss.min():.4f}, "
            f"from scratch {own.highest:.4f} to {own.lowest:.4f}",
            expected=f"at least {FEWEST} points of the grown run inside the losses of the other",
            fix="train the run from scratch longer" if below >= above else "train the grown run longer",
        )
    if above:
        notes += (f"{above} points above the losses of {own.source} left out",)
    if below:
        notes += (
            f"{below} points below the lowest loss of {own.source} ({own.lowest:.4f}) left out: the lost tokens are "
            f"those at {grown.tokens[known][-1]:.3g} of {grown.tokens[-1]:.3g} tokens after the growth",
        )
    return PilotCost(
        source=grown.source,
        own=own.source,
        config=grown.config,
        small=grown.small,
        loss_gap=grown.loss_after - grown.loss_before,
        tokens=grown.tokens[known],
        lost=(grown.tokens - (there - start))[known],
        flops=grown.flops,
        notes=grown.notes + notes,
    )


def _start(grown: GrownCurve, own: FallingCurve) -> tuple[float, tuple[str, ...]]:
    """The own curve's tokens at the loss after growth, and what is to be said about it."""
    loss = grown.loss_after
    if loss < own.lowest:
        raise ConfigError(
            f"{own.source}: never has the loss at which the grown model of {grown.source} starts",
            got=f"{own.lowest:.4f} at the end",
            expected=f"less than {loss:.4f}",
            fix="train the run from scratch longer",
        )
    if loss <= own.highest:
        return float(own.tokens(np.asarray([loss]))[0]), ()
    if own.first_tokens > _START_SHARE * grown.tokens[-1]:
        raise ConfigError(
            f"{own.source}: begins below the loss at which the grown model of {grown.source} starts",
            got=f"{own.highest:.4f} at {own.first_tokens:.3g} tokens, the first point at the full learning rate",
            expected=f"at least {loss:.4f}; or a first point within a tenth of the {grown.tokens[-1]:.3g} tokens "
            "after the growth",
            fix="evaluate the run from scratch earlier (evaluation.every_tokens, a shorter warm-up), or train the grown run longer",
        )
    return 0.0, (
        f"the loss after growth ({loss:.4f}) is above the first point of {own.source}: its place there, between 0 and "
        f"{own.first_tokens:.3g} tokens, is taken to be 0",
    )


@dataclass(frozen=True)
class MeasuredOperator:
    """The cost of an operator over several pilots (seeds) of the same growth."""

    pilots: tuple[PilotCost, ...]

    @property
    def loss_gap(self) -> float:
        """Mean over the pilots."""
        return fmean(one.loss_gap for one in self.pilots)

    @property
    def lost_tokens(self) -> float:
        """Mean over the pilots, negative where grown models were faster than their own size's curve."""
        return fmean(one.lost_tokens for one in self.pilots)

    @property
    def loss_gap_spread(self) -> float | None:
        """Standard deviation over the pilots; None for one."""
        return stdev(one.loss_gap for one in self.pilots) if len(self.pilots) > 1 else None

    @property
    def lost_tokens_spread(self) -> float | None:
        """Standard deviation over the pilots; None for one."""
        return stdev(one.lost_tokens for one in self.pilots) if len(self.pilots) > 1 else None

    @property
    def last_half(self) -> tuple[float, float]:
        """Least and most lost tokens of any pilot over the last half of its tokens since growth."""
        ranges = [one.last_half for one in self.pilots]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def flops(self) -> float:
        """Of the growth itself, mean over the pilots."""
        return fmean(one.flops for one in self.pilots)

    def operator(self, name: str) -> OperatorCost:
        """What a schedule is planned with: negative lost tokens count as 0.

        A gain was seen after a whole pilot. A schedule could take it at each growth, however short the stage: one shorter
        than the gain would cost less than nothing.
        """
        return OperatorCost(name, self.loss_gap, max(0.0, self.lost_tokens), self.flops)

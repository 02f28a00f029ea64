"""When a stage ends before its tokens are used: at a loss, or when the next model would learn faster per FLOP.

On the last part of the stage's training curve, two numbers are fitted by least squares (t: tokens on this model's curve):

    L(t) = E + A t^-b                 slope = d log L / d log C = -b A t^-b / L

Grow when the next model, from this loss, would reduce it faster per FLOP. On curves of that form with asymptotes E and
E - gain, and g times the FLOPs per token, the rates are equal where

    A t^-b = gain / (g^(1 / (1 + 1/b)) - 1)      that is, at slope  threshold = -b gain / (L (g^(1 / (1 + 1/b)) - 1))

and Kaplan's law (arXiv 2001.08361) says gain = E (1 - (N_large / N_small)^-a). Shen et al. (arXiv 2203.06211) stop at a
published slope per operator instead; a number is a slope, too. The decision is a pure function of the logged rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from outgrow.run.until import Threshold, UntilEfficiency, UntilLoss

FEWEST_ROWS = 8
"""Rows of the log that a fit needs."""


@dataclass(frozen=True)
class TrendFit:
    """The curve at its newest point: loss in nats, d log L / d log C and its standard error, and the asymptote E."""

    loss: float
    slope: float
    error: float
    asymptote: float


def fit_trend(
    tokens: Sequence[float], losses: Sequence[float], weights: Sequence[float], exponent: float
) -> TrendFit:
    """L = E + A t^-b by least squares, read at the last point.

    >>> t = [1e6 * k for k in range(10, 21)]
    >>> fitted = fit_trend(t, [2.0 + 3000 * one ** -0.5 for one in t], [1.0] * 11, 0.5)
    >>> round(fitted.asymptote, 6), round(fitted.slope, 6)
    (2.0, -0.125583)
    """
    t, loss, weight = (np.asarray(one, dtype=np.float64) for one in (tokens, losses, weights))
    u = (t / t[-1]) ** -exponent  # 1 at the last point
    weight = weight / weight.sum()
    mean_u, mean_loss = float(weight @ u), float(weight @ loss)
    spread = float(weight @ (u - mean_u) ** 2)
    amplitude = float(weight @ ((u - mean_u) * (loss - mean_loss))) / spread
    asymptote = mean_loss - amplitude * mean_u
    residual = loss - asymptote - amplitude * u
    variance = float(weight @ residual**2) * len(t) / max(1, len(t) - 2)
    now = asymptote + amplitude
    error = exponent * (variance / (spread * len(t))) ** 0.5 / now
    return TrendFit(now, -exponent * amplitude / now, error, asymptote)


Verdict = Literal["wait", "go on", "agreed", "end"]


@dataclass(frozen=True)
class Decision:
    """One line of the log: what the curve looks like, what was waited for, and what follows."""

    verdict: Verdict
    held: int
    fit: TrendFit | None
    wanted: float | None
    """The slope or the loss that ends the stage."""
    reason: str

    def row(self) -> dict[str, Any]:
        """Plain data for metrics.jsonl."""
        found = (
            {}
            if self.fit is None
            else {
                "loss": self.fit.loss,
                "slope": self.fit.slope,
                "slope_error": self.fit.error,
                "asymptote": self.fit.asymptote,
            }
        )
        return {
            **found,
            "wanted": self.wanted,
            "held": self.held,
            "verdict": self.verdict,
            "reason": self.reason,
        }


class Monitor:
    """Watches the training curve of one stage. Final; what it says is a pure function of the rows that it was given.

    `position`: where the stage began on this model's curve (the schedule's position); `first`: tokens of the stage that
    are not fitted because the learning rate still rises; `total`: the stage's tokens. All in tokens.
    """

    def __init__(
        self,
        until: UntilLoss | UntilEfficiency,
        threshold: Threshold | None,
        *,
        position: float,
        first: float,
        total: float,
    ) -> None:
        self._until, self._threshold = until, threshold
        self._position, self._first = position, first
        self._least = total / 10 if until.min_tokens is None else until.min_tokens
        self._every = until.check_tokens or max(1.0, total / 100)
        self._reached, self._held, self._steepest = 0.0, 0, 0.0
        self._tokens: list[float] = []  # on this model's curve, at the middle of each row
        self._losses: list[float] = []
        self._weights: list[float] = []  # tokens of each row

    def see(self, reached: float, loss: float) -> Decision | None:
        """A row of the log: the mean loss from the row before to `reached` tokens of the stage. A decision where one is due."""
        before, self._reached = self._reached, reached
        self._tokens.append(self._position + (before + reached) / 2)
        self._losses.append(loss)
        self._weights.append(reached - before)
        return self._decide() if reached // self._every > before // self._every else None

    def _decide(self) -> Decision:
        if self._reached < self._least:
            return self._waiting(f"nothing is decided before {self._least:,.0f} tokens of the stage")
        start = max(self._position + self._first, self._until.window * (self._position + self._reached))
        place = bisect_left(self._tokens, start)
        count = len(self._tokens) - place
        if count < FEWEST_ROWS:
            return self._waiting(f"{count} rows to fit, {FEWEST_ROWS} are needed")
        fitted = fit_trend(
            self._tokens[place:], self._losses[place:], self._weights[place:], self._until.exponent
        )
        if isinstance(self._until, UntilLoss):
            wanted, yes = self._until.loss, fitted.loss <= self._until.loss
            words = f"loss {fitted.loss:.4f} is {'at or below' if yes else 'above'} {wanted:g}"
        else:
            assert self._threshold is not None
            wanted = self._threshold.at(fitted.loss)
            past_steepest = fitted.slope > self._steepest
            self._steepest = min(self._steepest, fitted.slope)
            yes = past_steepest and fitted.slope > wanted
            words = f"slope {fitted.slope:.4f} ± {fitted.error:.4f} " + (
                f"is steeper than {wanted:.4f}: this model still learns faster per FLOP"
                if fitted.slope <= wanted
                else f"is flatter than {wanted:.4f}: the next model would learn faster per FLOP"
                if yes
                else f"is flatter than {wanted:.4f}, but the steepest so far"
            )
        self._held = self._held + 1 if yes else 0
        if not yes:
            return Decision("go on", 0, fitted, wanted, words)
        words += f" ({self._held} of {self._until.patience})"
        verdict: Verdict = "end" if self._held >= self._until.patience else "agreed"
        return Decision(verdict, self._held, fitted, wanted, words)

    def _waiting(self, why: str) -> Decision:
        self._held = 0
        return Decision("wait", 0, None, None, why)

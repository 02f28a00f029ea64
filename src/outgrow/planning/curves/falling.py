"""A curve read the other way round: after how many tokens a loss is reached, inside what was measured and nowhere else.

    tokens(L) = exp(interpolation of log tokens over the loss)

Measured losses jitter, and a loss that comes three times has no one place. So neighbours that rise are pooled into their
mean until none does (pool adjacent violators, Ayer et al. 1955: the falling curve that is nearest in least squares).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outgrow.errors import ConfigError
from outgrow.planning.curves.curve import Curve
from outgrow.planning.laws.power import Array, PowerCurve, array

_LEAST = 5
_SAMPLES = 2000


@dataclass(frozen=True)
class FallingCurve:
    """Points with rising tokens and strictly falling loss (nats per token)."""

    source: str
    log_tokens: Array
    loss: Array

    @property
    def highest(self) -> float:
        """The loss where the curve begins."""
        return float(self.loss[0])

    @property
    def lowest(self) -> float:
        """The loss where it ends."""
        return float(self.loss[-1])

    @property
    def first_tokens(self) -> float:
        """Tokens where it begins."""
        return float(np.exp(self.log_tokens[0]))

    def tokens(self, loss: Array) -> Array:
        """Tokens until each loss; NaN above the first and below the last point.

        >>> curve = FallingCurve("a", np.log([1e6, 4e6]), np.array([4.0, 3.0]))
        >>> curve.tokens(np.array([4.1, 4.0, 3.5, 2.9])).round(3).tolist()
        [nan, 1000000.0, 2000000.0, nan]
        """
        nan = float("nan")
        logs = np.interp(-loss, -self.loss, self.log_tokens, left=nan, right=nan)
        return np.asarray(np.exp(logs))


def falling(curve: Curve) -> FallingCurve:
    """The points of a training from scratch at its full learning rate; raises `ConfigError` where there are too few."""
    tokens, loss = curve.tokens, curve.loss
    if curve.stable is not None:
        low, high = curve.stable
        keep = (tokens >= low) & (tokens <= high)
        if keep.sum() < _LEAST:
            raise ConfigError(
                f"{curve.source}: too few points at the full learning rate",
                got=f"{int(keep.sum())} of {len(keep)}",
                expected=f"at least {_LEAST}",
                fix="train with a constant or wsd schedule, and evaluate more often (evaluation.every_tokens)",
            )
        tokens, loss = tokens[keep], loss[keep]
    found = _pooled(curve.source, tokens, loss)
    if len(found.loss) < _LEAST:
        raise ConfigError(
            f"{curve.source}: the loss does not fall",
            got=f"{len(found.loss)} steps down in {len(loss)} points",
            expected=f"at least {_LEAST}",
            fix="train longer between points, or on more validation sequences",
        )
    return found


def falling_law(source: str, curve: PowerCurve, low: float, high: float) -> FallingCurve:
    """A fitted curve between the first and last tokens of the points that it was fitted to."""
    tokens = np.geomspace(low, high, _SAMPLES)
    return FallingCurve(source, np.log(tokens), curve.loss(tokens))


def _pooled(source: str, tokens: Array, loss: Array) -> FallingCurve:
    blocks: list[tuple[float, float, int]] = []  # mean log tokens, mean loss, points
    for log, value in zip(np.log(tokens).tolist(), loss.tolist(), strict=True):
        count = 1
        while blocks and blocks[-1][1] <= value:
            other_log, other, points = blocks.pop()
            log = (log * count + other_log * points) / (count + points)
            value = (value * count + other * points) / (count + points)
            count += points
        blocks.append((log, value, count))
    return FallingCurve(
        source, array([log for log, _, _ in blocks]), array([value for _, value, _ in blocks])
    )

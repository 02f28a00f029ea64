"""One training's learning curve as a value, checked when it is made, and the points of it that a law may be fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from outgrow.errors import ConfigError
from outgrow.planning.laws.power import Array, array

Points = Literal["stable", "final", "all"]
"""Which points a law is fitted to: while the learning rate is at its peak, the last one of each run, or all."""

RATE_NAMES = ("train/lr", "train/learning_rate", "lr", "learning_rate")
"""What logs of series call the learning rate."""
_LEAST = 5
_MOST = 120


@dataclass(frozen=True)
class Curve:
    """Loss (nats per token) of one model after so many tokens, from scratch.

    `stable` bounds the tokens between which the learning rate is at its peak; None where the file does not say.
    """

    source: str
    parameters: float
    tokens: Array
    loss: Array
    flops_per_token: float | None = None
    stable: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    """Content of the model's `config.json`, where the file has it."""


def make_curve(
    source: str,
    parameters: float,
    tokens: Sequence[float],
    loss: Sequence[float],
    *,
    places: Sequence[str],
    names: tuple[str, str] = ("tokens", "loss"),
    flops: Sequence[float] | None = None,
    rates: tuple[Sequence[float], Sequence[float]] | None = None,
    notes: tuple[str, ...] = (),
) -> Curve:
    """Check points and make a curve of them; `places` says where each one stands, as `line 12`.

    `rates` are the learning rate's own points (tokens, value). Raises `ConfigError` with file, place and field.
    """
    if not np.isfinite(parameters) or parameters <= 0:
        raise ConfigError(
            f"{source}: the number of parameters is not known", got=parameters, expected="a number above 0"
        )
    for place, x, y in zip(places, tokens, loss, strict=True):
        for name, value in zip(names, (x, y), strict=True):
            if not np.isfinite(value) or value <= 0:
                raise ConfigError(
                    f"{source}, {place}: {name} is not a positive number",
                    got=value,
                    fix="remove this point, or train again if the training diverged",
                )
    for before, after, place in zip(tokens, tokens[1:], places[1:], strict=False):
        if after <= before:
            what = "is repeated" if after == before else "goes back"
            raise ConfigError(
                f"{source}, {place}: {names[0]} {what}",
                got=f"{after:.10g} after {before:.10g}",
                expected="rising values",
                fix="keep one row per step; a resumed run may have written some twice",
            )
    if len(tokens) < _LEAST:
        raise ConfigError(
            f"{source}: too few points for a curve",
            got=len(tokens),
            expected=f"at least {_LEAST}",
            fix="evaluate more often (evaluation.every_tokens)",
        )
    return Curve(
        source,
        float(parameters),
        array(tokens),
        array(loss),
        None if flops is None else _flops_per_token(source, places, array(tokens), array(flops)),
        None if rates is None else stable_part(*rates),
        notes,
    )


def _flops_per_token(source: str, places: Sequence[str], tokens: Array, flops: Array) -> float:
    """FLOPs grow with tokens at one rate, or a unit changes inside the file."""
    rate = flops / tokens
    middle = float(np.median(rate))
    wrong = np.flatnonzero(~(np.abs(rate / middle - 1) < 0.02)) if middle > 0 else np.arange(1)
    if len(wrong):
        raise ConfigError(
            f"{source}, {places[wrong[0]]}: flops and tokens do not fit together (mixed units?)",
            got=f"{rate[wrong[0]]:.4g} FLOPs per token",
            expected=f"{middle:.4g} as in the other rows",
        )
    return middle


def stable_part(tokens: Sequence[float], rate: Sequence[float]) -> tuple[float, float]:
    """Tokens between which the learning rate is within 1 % of its peak.

    >>> stable_part([1, 2, 3, 4, 5], [0.5, 1.0, 1.0, 1.0, 0.6])
    (2.0, 4.0)
    """
    x, y = array(tokens), array(rate)
    at_peak = x[y >= 0.99 * y.max()]
    return float(at_peak[0]), float(at_peak[-1])


def check_falls(curve: Curve) -> Curve:
    """The curve itself. Raises `ConfigError` where its last third is not below its first: an accuracy, or a run that diverged."""
    third = max(1, len(curve.loss) // 3)
    first, last = float(curve.loss[:third].mean()), float(curve.loss[-third:].mean())
    if not last < first:
        raise ConfigError(
            f"{curve.source}: the loss does not fall, so no law of training describes it",
            got=f"{first:.4g} in the first third of the points, {last:.4g} in the last",
            expected="a loss in nats per token, that falls",
            fix="give the series of the loss, or leave out a run that diverged",
        )
    return curve


def select(curve: Curve, points: Points, from_tokens: float = 0) -> Curve:
    """The points of a curve that a law may be fitted to, at most 120 of them: others are averaged in equal steps of log tokens.

    Points before `from_tokens` are left out. Raises `ConfigError` where too few are left.
    """
    if points == "final":
        return replace(curve, tokens=curve.tokens[-1:], loss=curve.loss[-1:])
    if points == "stable" and curve.stable is not None:
        low, high = curve.stable
        keep = (curve.tokens >= low) & (curve.tokens <= high)
        if keep.sum() < _LEAST:
            raise ConfigError(
                f"{curve.source}: only {int(keep.sum())} points were measured at the full learning rate",
                expected=f"at least {_LEAST}",
                fix="choose fit.points: final (the end of each run) or all, or train with a constant or wsd schedule",
            )
        left = int((~keep).sum())
        note = (f"{left} points in warm-up or decay left out",) if left else ()
        curve = replace(curve, tokens=curve.tokens[keep], loss=curve.loss[keep], notes=curve.notes + note)
    return _thinned(_later(curve, from_tokens))


def _later(curve: Curve, from_tokens: float) -> Curve:
    """Without the points before a number of tokens."""
    keep = curve.tokens >= from_tokens
    if keep.all():
        return curve
    if keep.sum() < _LEAST:
        raise ConfigError(
            f"{curve.source}: only {int(keep.sum())} points from {from_tokens:,.0f} tokens on",
            expected=f"at least {_LEAST}",
            fix="lower law.from_tokens, or give longer curves",
        )
    note = f"{int((~keep).sum())} points before {from_tokens:,.0f} tokens left out"
    return replace(curve, tokens=curve.tokens[keep], loss=curve.loss[keep], notes=(*curve.notes, note))


def _thinned(curve: Curve) -> Curve:
    if len(curve.tokens) <= _MOST:
        return curve
    logs = np.log(curve.tokens)
    bins = np.minimum(((logs - logs[0]) / (logs[-1] - logs[0]) * _MOST).astype(int), _MOST - 1)
    count = np.bincount(bins, minlength=_MOST)
    full = count > 0

    def mean(values: Array) -> Array:
        return np.asarray(np.exp(np.bincount(bins, np.log(values), _MOST)[full] / count[full]))

    note = f"{len(logs)} points averaged to {int(full.sum())}"
    return replace(curve, tokens=mean(curve.tokens), loss=mean(curve.loss), notes=(*curve.notes, note))

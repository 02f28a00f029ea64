"""Noise like that of measured curves: a sieve bootstrap of first order (Buehlmann, Bernoulli 3, 1997), pooled over curves.

    noise_t = rho * noise_(t-1) + innovation_t           innovations resampled from those of the residuals

Neighbouring losses of one training err together, and a fit follows part of that: residuals are smaller and less correlated
than the noise was. With Q the tangent space of the fit and R the correlations along curves, residual covariance is
s^2 (1 - Q Q') R (1 - Q Q'); s and rho are those whose variance and lag-1 covariance equal the residuals'.
(Resampling whole curves would lose a size now and then, and with few curves the law with it.)
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from outgrow.planning.laws.power import Array

Places = NDArray[np.int64]

_CORRELATIONS = np.linspace(0.0, 0.96, 49)


def noise_like(
    residual: Array, curve: Array, tangent: Array, draws: int, random: np.random.Generator
) -> Array:
    """[draw, point]: noise with the scale, shape and correlation of that behind the residuals of a fit."""
    order = [np.flatnonzero(curve == one) for one in np.unique(curve)]
    scale, rho = _scale_and_correlation(residual, order, tangent)
    pool = np.concatenate(
        [residual[places][1:] - rho * residual[places][:-1] for places in order if len(places) > 1]
        or [residual]
    )
    pool = pool - pool.mean()
    pool *= scale * np.sqrt(1 - rho**2) / max(float(pool.std()), 1e-300)
    noise = random.choice(pool, size=(draws, len(residual)))
    for places in order:
        noise[:, places[0]] /= np.sqrt(1 - rho**2)
        for before, here in pairwise(places):
            noise[:, here] += rho * noise[:, before]
    return noise


def _scale_and_correlation(residual: Array, order: list[Places], tangent: Array) -> tuple[float, float]:
    """(s, rho) of the noise, by matching the two moments."""
    variance = float(np.sum(residual**2))
    lag = sum(float(np.sum(residual[places][1:] * residual[places][:-1])) for places in order)
    expected = np.array([_expected(float(rho), order, tangent) for rho in _CORRELATIONS])
    if not any(len(places) > 1 for places in order) or variance == 0.0:
        return float(np.sqrt(variance / expected[0, 0])), 0.0
    ratios = np.maximum.accumulate(expected[:, 1] / expected[:, 0])
    rho = float(np.interp(lag / variance, ratios, _CORRELATIONS))
    return float(np.sqrt(variance / _expected(rho, order, tangent)[0])), rho


def _expected(rho: float, order: list[Places], tangent: Array) -> tuple[float, float]:
    """Sums of the variances and lag-1 covariances of residuals, for noise of variance 1."""
    applied = np.empty_like(tangent)  # R Q
    for places in order:
        steps = np.arange(len(places))
        applied[places] = rho ** np.abs(steps[:, None] - steps[None, :]) @ tangent[places]
    inner = tangent.T @ applied  # Q' R Q
    variance = len(tangent) - 2 * float(np.sum(tangent * applied)) + float(np.trace(inner))
    lag = 0.0
    for places in order:
        first, second = places[:-1], places[1:]
        lag += rho * len(first)
        lag -= float(np.sum(tangent[first] * applied[second]) + np.sum(applied[first] * tangent[second]))
        lag += float(np.einsum("ip,pq,iq->", tangent[first], inner, tangent[second]))
    return variance, lag

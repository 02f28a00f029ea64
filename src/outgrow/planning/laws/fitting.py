"""Laws from curves: robust, from many starts, with bootstrap intervals (after section D.2 of arXiv 2203.15556).

    log loss = p log sum_k exp(x_k . theta)      every term of every law (`forms.py`) is a power, so its log is linear in theta;
                                                 p = 1, but for Kaplan's L(N, D), where it is a coefficient too
    minimise   sum_i huber(log loss(theta) - log measured loss)

by Levenberg and Marquardt's method, all starts at once. Intervals come from fits to drawn curves, fitted law + noise, where the
noise is resampled from the residuals and keeps their correlation along a curve (`noise.py`). Hoffmann et al. fix the width of the robust loss at 1e-3;
here it is that or 1.345 standard deviations of the scatter, whichever is wider (full efficiency on noisier curves).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import Any, Generic

import numpy as np

from outgrow.errors import ConfigError
from outgrow.planning.laws.forms import Design, Law, LawForm
from outgrow.planning.laws.noise import noise_like
from outgrow.planning.laws.power import Array, array
from outgrow.planning.laws.prediction import Interval, Prediction, Range, quantiles


@dataclass(frozen=True)
class Quality:
    """How well a law fits: of the logarithm of the loss, so 0.01 is one per cent of the loss."""

    points: int
    curves: int
    r_squared: float
    scatter: float
    """Standard deviation of the residuals (robust: 1.4826 median absolute deviations)."""
    largest_residual: float
    starts_agreeing: float
    """Share of the starts that end within 1 % of the best value of the objective: near 0 is a warning."""


@dataclass(frozen=True)
class FittedLaw(Generic[Law]):
    """A law, the laws of the bootstrap draws, the data's range, and the quality of the fit."""

    law: Law
    draws: tuple[Law, ...]
    ranges: Mapping[str, Range]
    quality: Quality
    level: float = 0.9

    def interval(self, question: Callable[[Law], Any]) -> Interval:
        """Any number that depends on the law, with its interval: the question is asked of every draw."""
        answers = array([float(question(law)) for law in self.draws])
        return quantiles(answers, float(question(self.law)), self.level)

    def predict(self, **at: float) -> Prediction:
        """The loss at these column values. The interval is that of the law; one run scatters by `quality.scatter` besides."""
        loss = self.interval(lambda law: law.loss(**at))  # type: ignore[attr-defined]
        return Prediction(loss, at, self.beyond(**at))

    def beyond(self, **at: float) -> tuple[str, ...]:
        """The columns in which this lies outside the data."""
        return tuple(name for name, value in at.items() if self.ranges[name].outside(value))


def fit_law(
    form: LawForm[Law],
    columns: Mapping[str, Array],
    loss: Array,
    curve: Array | None = None,
    *,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.9,
) -> FittedLaw[Law]:
    """Fit a law to points; `curve` numbers the training that each point belongs to, its points in their order.

    >>> from outgrow.planning.laws import PowerCurve
    >>> from outgrow.planning.laws.forms import CURVE_FORM
    >>> tokens = np.geomspace(1e6, 1e9, 40)
    >>> truth = PowerCurve(2.0, 1e6, 0.5)
    >>> law = fit_law(CURVE_FORM, {"tokens": tokens}, truth.loss(tokens), draws=20).law
    >>> round(law.floor_loss, 6), round(law.scale_tokens), round(law.exponent, 6)
    (2.0, 1000000, 0.5)

    Raises `ConfigError` for too few points, for a column that never changes, and where no start gives a law.
    """
    _check(form, columns, loss)
    curve = np.zeros(len(loss)) if curve is None else np.asarray(curve)
    centre = {name: float(np.log(columns[name]).mean()) for name in form.columns}
    design = form.design({name: np.log(columns[name]) - centre[name] for name in form.columns})
    y = np.log(loss)
    theta, objective = _least(design, y[None], _starts(form, float(y.mean())), width=np.inf)
    residual = design.log_loss(theta[[np.argmin(objective)]])[0] - y
    width = max(1e-3, 1.345 * _scatter(residual))
    theta, objective = _least(design, y[None], theta, width)
    fits = [(_law(form, one, centre), value) for one, value in zip(theta, objective, strict=True)]
    valid = [value for law, value in fits if law is not None]
    if not valid:
        raise ConfigError(
            f"no {form.name} law fits these curves: every start ends with an exponent below 0",
            fix="leave out the warm-up, or train longer or in more sizes",
        )
    best = int(np.argmin([value if law is not None else np.inf for law, value in fits]))
    best_law = fits[best][0]
    assert best_law is not None
    residual = y - design.log_loss(theta[[best]])[0]
    return FittedLaw(
        law=best_law,
        draws=_bootstrap(form, design, y, residual, curve, theta[best], width, centre, draws, seed),
        ranges={name: Range(float(columns[name].min()), float(columns[name].max())) for name in form.columns},
        quality=Quality(
            points=len(loss),
            curves=len(np.unique(curve)),
            r_squared=1 - float(np.sum(residual**2) / max(np.sum((y - y.mean()) ** 2), 1e-300)),
            scatter=_scatter(residual),
            largest_residual=float(np.abs(residual).max()),
            starts_agreeing=float(np.mean(objective <= 1.01 * min(valid) + 1e-12)),
        ),
        level=level,
    )


def _check(form: LawForm[Any], columns: Mapping[str, Array], loss: Array) -> None:
    missing = [name for name in form.columns if name not in columns]
    if missing:
        raise ConfigError(
            f"the {form.name} law needs the column {missing[0]}", got=", ".join(columns) or "none"
        )
    if len(loss) < form.size + 3:
        raise ConfigError(
            f"too few points for the {form.size} numbers of the {form.name} law",
            got=len(loss),
            expected=f"at least {form.size + 3}",
            fix="evaluate more often, or add curves",
        )
    for name in form.columns:
        distinct = len(np.unique(columns[name]))
        if distinct < 3:
            raise ConfigError(
                f"a {form.name} law cannot be told from so few values of {name}",
                got=f"{distinct} different",
                expected="at least 3",
                fix="add runs" if name != "tokens" else "evaluate more often",
            )
    for name, values in {**columns, "loss": loss}.items():
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ConfigError(f"{name} has values that are no positive numbers")


def _starts(form: LawForm[Any], mean_log_loss: float) -> Array:
    """Every split of the loss among the terms, at the centre of the data, every set of exponents, and every outer power."""
    shares = [s for s in product((0.1, 0.3, 0.8), repeat=len(form.terms)) if 0.3 < sum(s) < 1.5]
    slopes = list(product((-0.1, -0.3, -0.8), repeat=sum(len(term) for term in form.terms)))
    powers = (0.05, 0.1, 0.3, 1.0) if form.outer else (1.0,)
    starts = np.zeros((len(shares) * len(slopes) * len(powers), form.size))
    for row, (share, slope, power) in enumerate(product(shares, slopes, powers)):
        place, rest = 0, iter(slope)
        for k, term in enumerate(form.terms):
            starts[row, place] = np.log(share[k]) + mean_log_loss / power
            for columns in term:
                place += 1
                alone = len(columns) == 1  # an interaction starts at 0
                starts[row, place] = next(rest) / power if alone else 0.0
            place += 1
        if form.outer:
            starts[row, place] = np.log(power)
    return np.unique(starts, axis=0)


def _least(design: Design, y: Array, theta: Array, width: float, rounds: int = 300) -> tuple[Array, Array]:
    """Levenberg and Marquardt's method on Huber's loss, for all rows of `theta` at once; y is [1 or start, point]."""
    theta, damping = theta.copy(), np.full(len(theta), 1e-2)
    objective = _huber(design.log_loss(theta) - y, width)
    quiet = np.zeros(len(theta), dtype=int)
    for _ in range(rounds):
        active = np.flatnonzero(quiet < 4)
        if not len(active):
            break
        own = y if len(y) == 1 else y[active]
        step = _step(design, own, theta[active], damping[active], width)
        trial = theta[active] + np.clip(step, -2, 2)
        value = _huber(design.log_loss(trial) - own, width)
        better = value < objective[active]
        gained = objective[active] - value
        quiet[active] = np.where(
            gained > 1e-7 * objective[active] + 1e-18, 0, quiet[active] + 1
        )  # several rounds without a gain: done
        theta[active[better]], objective[active[better]] = trial[better], value[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 6.0), 1e-12, 1e8)
    return theta, objective


def _step(design: Design, y: Array, theta: Array, damping: Array, width: float) -> Array:
    log_loss, jacobian = design.jacobian(theta)
    residual = log_loss - y
    weighted = jacobian * np.minimum(1.0, width / np.maximum(np.abs(residual), 1e-300))[:, :, None]
    normal = np.einsum("snp,snq->spq", weighted, jacobian)
    slope = np.einsum("snp,sn->sp", weighted, residual)
    diagonal = np.einsum("spp->sp", normal)
    diagonal += damping[:, None] * diagonal + 1e-12
    return -np.asarray(np.linalg.solve(normal, slope[:, :, None])[:, :, 0])


def _huber(residual: Array, width: float) -> Array:
    size = np.abs(residual)
    quadratic = np.minimum(size, width)
    return np.asarray((quadratic * (size - 0.5 * quadratic)).sum(axis=1))


def _scatter(residual: Array) -> float:
    """A standard deviation that single outliers do not move."""
    return 1.4826 * float(np.median(np.abs(residual - np.median(residual))))


def _law(form: LawForm[Law], theta: Array, centre: Mapping[str, float]) -> Law | None:
    """The law in the user's units, or None where an exponent has the wrong sign."""
    try:
        return form.build(_uncentred(form, theta, centre))
    except (ConfigError, OverflowError, ZeroDivisionError):
        return None


def _uncentred(form: LawForm[Any], theta: Array, centre: Mapping[str, float]) -> Array:
    """Coefficients of log columns from those of centred ones: products of (log c - mean) are multiplied out."""
    result, place = theta.copy(), 0
    for term, divisor in zip_longest(form.terms, form.divisors):
        if divisor is not None:
            result[place] += centre[divisor]
        at = {columns: place + 1 + k for k, columns in enumerate(term)}
        for columns, k in at.items():
            if len(columns) == 1:
                result[place] -= theta[k] * centre[columns[0]]
            else:
                one, two = columns
                result[place] += theta[k] * centre[one] * centre[two]
                result[at[one,]] -= theta[k] * centre[two]
                result[at[two,]] -= theta[k] * centre[one]
        place += 1 + len(term)
    return result


def _bootstrap(
    form: LawForm[Law],
    design: Design,
    y: Array,
    residual: Array,
    curve: Array,
    theta: Array,
    width: float,
    centre: Mapping[str, float],
    draws: int,
    seed: int,
) -> tuple[Law, ...]:
    """Laws fitted to drawn curves, each from the best fit on."""
    noise = noise_like(residual, curve, _tangent(design, theta), draws, np.random.default_rng(seed))
    drawn = (y - residual)[None] + noise
    thetas, _ = _least(design, drawn, np.repeat(theta[None], draws, axis=0), width)
    laws = tuple(law for one in thetas if (law := _law(form, one, centre)) is not None)
    if len(laws) < 0.8 * draws:
        raise ConfigError(
            f"the {form.name} law is not determined by these curves",
            got=f"{draws - len(laws)} of {draws} bootstrap draws give an exponent below 0",
            fix="add curves, longer ones, or more sizes",
        )
    return laws


def _tangent(design: Design, theta: Array) -> Array:
    """An orthonormal basis of the directions in which the fit can follow noise: [point, coefficient]."""
    basis, _ = np.linalg.qr(design.jacobian(theta[None])[1][0])
    return np.asarray(basis)

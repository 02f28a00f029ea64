"""Fits recover the law behind curves; intervals hold it about as often as they say; what cannot be fitted is refused."""

from __future__ import annotations

import numpy as np
import pytest

from outgrow.errors import ConfigError
from outgrow.planning.laws import Chinchilla, KaplanData, KaplanSteps, PowerCurve, Saturation, fit_law
from outgrow.planning.laws.forms import (
    CHINCHILLA_FORM,
    CURVE_FORM,
    KAPLAN_DATA_FORM,
    KAPLAN_FORM,
    SATURATION_FORM,
)

TRUTH = Chinchilla(1.8, 180.0, 0.32, 1200.0, 0.42)
SIZES = np.geomspace(3e5, 1e7, 5)


def curves(points: int = 12) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Columns, loss without noise, number of the curve."""
    tokens = np.tile(np.geomspace(2e6, 2e8, points), len(SIZES))
    parameters = np.repeat(SIZES, points)
    number = np.repeat(np.arange(len(SIZES)), points)
    return {"parameters": parameters, "tokens": tokens}, TRUTH.loss(parameters, tokens), number


def test_without_noise_the_law_comes_back() -> None:
    columns, loss, number = curves()
    fitted = fit_law(CHINCHILLA_FORM, columns, loss, number, draws=20)
    np.testing.assert_allclose(
        [getattr(fitted.law, name) for name in vars(TRUTH)], list(vars(TRUTH).values()), rtol=1e-6
    )
    assert fitted.quality.r_squared > 1 - 1e-9
    assert fitted.quality.starts_agreeing > 0.5


def test_other_forms_come_back() -> None:
    first, second = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e6, 1e9, 8)))
    kaplan = KaplanSteps(6.5e13, 0.077, 2.1e3, 0.76)
    steps = second / 1e3
    found = fit_law(
        KAPLAN_FORM, {"parameters": first, "min_steps": steps}, kaplan.loss(first, steps), draws=20
    ).law
    np.testing.assert_allclose(found.floor(1e8), kaplan.floor(1e8), rtol=1e-5)
    np.testing.assert_allclose(found.step_exponent, 0.76, rtol=1e-4)
    data = KaplanData(6.4e13, 0.076, 1.8e13, 0.103)
    columns = {"parameters": first, "tokens": second}
    same = fit_law(KAPLAN_DATA_FORM, columns, data.loss(first, second), draws=20).law
    np.testing.assert_allclose(list(vars(same).values()), list(vars(data).values()), rtol=1e-5)
    saturation = Saturation(1.7, 30.0, 0.05, 0.30, 0.005)
    columns = {"base_tokens": first, "second_tokens": second}
    again = fit_law(SATURATION_FORM, columns, saturation.loss(first, second), draws=20).law
    np.testing.assert_allclose(again.loss(3e8, 3e8), saturation.loss(3e8, 3e8), rtol=1e-6)
    np.testing.assert_allclose(again.interaction, 0.005, rtol=1e-2)


def test_outliers_hardly_move_the_law() -> None:
    columns, loss, number = curves(20)
    loss = loss * np.exp(0.002 * np.random.default_rng(0).normal(size=len(loss)))
    loss[[7, 33, 71]] *= 1.5  # three loss spikes
    fitted = fit_law(CHINCHILLA_FORM, columns, loss, number, draws=20)
    assert float(fitted.law.loss(3e6, 5e7)) == pytest.approx(float(TRUTH.loss(3e6, 5e7)), rel=2e-3)


def test_intervals_hold_the_truth() -> None:
    """Of 48 statements (12 data sets x 4 questions) at 90 %, more than 36 and not all: `benchmarks/law_fit.py` does 100."""
    columns, loss, number = curves(8)
    held = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        noisy = loss * np.exp(0.01 * random.normal(size=len(loss)))
        fitted = fit_law(CHINCHILLA_FORM, columns, noisy, number, draws=60, seed=seed)
        for question in (
            lambda law: law.token_exponent,
            lambda law: law.parameter_exponent,
            lambda law: float(law.loss(3e6, 5e7)),
            lambda law: float(law.tokens(3e7, 3.2)),
        ):
            held.append(fitted.interval(question).contains(question(TRUTH)))
    assert 36 < sum(held) < 48


def test_predictions_say_when_they_extrapolate() -> None:
    columns, loss, number = curves()
    loss = loss * np.exp(0.005 * np.random.default_rng(1).normal(size=len(loss)))
    fitted = fit_law(CHINCHILLA_FORM, columns, loss, number, draws=40)
    inside = fitted.predict(parameters=3e6, tokens=5e7)
    assert not inside.extrapolated
    assert inside.loss.low < inside.loss.value < inside.loss.high
    outside = fitted.predict(parameters=3e8, tokens=5e7)
    assert outside.beyond == ("parameters",)
    assert "extrapolated in parameters" in str(outside)
    assert outside.loss.high - outside.loss.low > inside.loss.high - inside.loss.low


def test_the_same_seed_gives_the_same_intervals() -> None:
    columns, loss, number = curves()
    loss = loss * np.exp(0.005 * np.random.default_rng(1).normal(size=len(loss)))
    one, two = (fit_law(CHINCHILLA_FORM, columns, loss, number, draws=20, seed=3) for _ in range(2))
    assert one.draws == two.draws


def test_what_cannot_be_fitted_is_refused() -> None:
    columns, loss, number = curves()
    with pytest.raises(ConfigError, match="too few points"):
        fit_law(CHINCHILLA_FORM, {name: c[:6] for name, c in columns.items()}, loss[:6])
    same = {**columns, "parameters": np.full(len(loss), 1e6)}
    with pytest.raises(ConfigError, match="values of parameters"):
        fit_law(CHINCHILLA_FORM, same, loss, number)
    with pytest.raises(ConfigError, match="needs the column parameters"):
        fit_law(CHINCHILLA_FORM, {"tokens": columns["tokens"]}, loss)
    rising = PowerCurve(2.0, 1e6, 0.5).loss(np.geomspace(1e9, 1e6, 30))
    with pytest.raises(ConfigError, match="exponent below 0"):
        fit_law(CURVE_FORM, {"tokens": np.geomspace(1e6, 1e9, 30)}, rising)

"""Laws as values: inverses come back, gradients are those of finite differences, published constants give known numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from outgrow.errors import ConfigError
from outgrow.planning.laws import (
    CHINCHILLA,
    KAPLAN_BATCH,
    KAPLAN_DATA,
    KAPLAN_FRONTIER,
    KAPLAN_STEPS,
    STAGED_TRAINING,
    Chinchilla,
    PowerCurve,
    Saturation,
)

SATURATION = Saturation(1.7, 30.0, 0.05, 0.30, 0.005)
CASES: list[tuple[Any, str, dict[str, float]]] = [
    (PowerCurve(2.1, 1e6, 0.4), "loss", {"tokens": 3e7}),
    (CHINCHILLA, "loss", {"parameters": 4e8, "tokens": 3e9}),
    (KAPLAN_STEPS, "loss", {"parameters": 4e8, "min_steps": 2e4}),
    (KAPLAN_DATA, "loss", {"parameters": 4e8, "tokens": 3e9}),
    (KAPLAN_FRONTIER, "loss", {"pf_days": 0.3}),
    (KAPLAN_BATCH, "tokens", {"loss": 2.7}),
    (SATURATION, "loss", {"base_tokens": 2e9, "second_tokens": 5e9}),
]


@pytest.mark.parametrize(("law", "name", "at"), CASES, ids=lambda x: type(x).__name__)
def test_gradients(law: Any, name: str, at: dict[str, float]) -> None:
    gradient = law.gradient(**at)
    constants = {f.name for f in fields(law)} & set(gradient)
    assert set(gradient) == constants | set(at)
    for key in gradient:
        value = at[key] if key in at else getattr(law, key)

        def moved(by: float, key: str = key, value: float = value) -> float:
            if key in at:
                return float(getattr(law, name)(**{**at, key: value * by}))
            return float(getattr(replace(law, **{key: value * by}), name)(**at))

        slope = (moved(1 + 1e-6) - moved(1 - 1e-6)) / (2e-6 * value)
        np.testing.assert_allclose(float(gradient[key]), slope, rtol=1e-5)  # central differences of step 1e-6


def test_inverses() -> None:
    tokens = np.geomspace(1e6, 1e12, 13)
    curve = PowerCurve(2.1, 1e6, 0.4)
    np.testing.assert_allclose(curve.tokens(curve.loss(tokens)), tokens, rtol=1e-9)
    for law in (CHINCHILLA, KAPLAN_DATA):
        np.testing.assert_allclose(law.tokens(1e9, law.loss(1e9, tokens)), tokens, rtol=1e-6)
    steps = np.geomspace(1e3, 1e6, 7)
    np.testing.assert_allclose(KAPLAN_STEPS.min_steps(1e9, KAPLAN_STEPS.loss(1e9, steps)), steps, rtol=1e-9)
    np.testing.assert_allclose(SATURATION.second_tokens(1e9, SATURATION.loss(1e9, tokens)), tokens, rtol=1e-8)
    np.testing.assert_allclose(KAPLAN_BATCH.loss(KAPLAN_BATCH.tokens(2.7)), 2.7)
    np.testing.assert_allclose(KAPLAN_FRONTIER.pf_days(KAPLAN_FRONTIER.loss(0.3)), 0.3)


def test_a_loss_below_the_floor_takes_for_ever() -> None:
    assert np.isinf(CHINCHILLA.tokens(1e8, float(CHINCHILLA.floor(1e8))))
    assert np.isinf(KAPLAN_DATA.tokens(1e8, 2.0))
    assert np.isinf(SATURATION.second_tokens(1e9, 1.6))
    with pytest.raises(ConfigError, match="no size reaches"):
        CHINCHILLA.cheapest(1.6)


def test_curves_are_the_law_at_one_size() -> None:
    tokens = np.geomspace(1e8, 1e12, 9)
    np.testing.assert_allclose(CHINCHILLA.curve(3e8).loss(tokens), CHINCHILLA.loss(3e8, tokens), rtol=1e-12)
    steps = np.geomspace(1e3, 1e6, 7)
    np.testing.assert_allclose(
        KAPLAN_STEPS.step_curve(3e8).loss(2 * steps), KAPLAN_STEPS.loss(3e8, steps), rtol=1e-12
    )


@pytest.mark.parametrize("loss", [2.0, 3.0])
def test_the_cheapest_size_is_cheapest(loss: float) -> None:
    for best, tokens in (
        (CHINCHILLA.cheapest(loss), lambda n: CHINCHILLA.tokens(n, loss)),
        (
            STAGED_TRAINING.cheapest(loss, KAPLAN_BATCH),
            lambda n: 2 * STAGED_TRAINING.min_steps(n, loss) * KAPLAN_BATCH.tokens(loss),
        ),
    ):
        near = best.parameters * np.geomspace(0.8, 1.25, 401)
        assert float((6 * near * tokens(near)).min()) == pytest.approx(best.flops, rel=1e-6)


def test_published_numbers() -> None:
    # Kaplan et al. 6.3: compute-efficient training stops about 10 % above the converged loss.
    best = STAGED_TRAINING.cheapest(2.69, KAPLAN_BATCH)
    assert best.loss / float(STAGED_TRAINING.floor(best.parameters)) == pytest.approx(1.10, abs=1e-3)
    # Hoffmann et al., the exponents of section D.3: parameters grow as FLOPs^(b / (a + b)) = FLOPs^0.45.
    two = [CHINCHILLA.best_for_flops(c).parameters for c in (1e20, 1e22)]
    assert np.log10(two[1] / two[0]) / 2 == pytest.approx(0.28 / 0.62)


def test_constants_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"PowerCurve\.exponent"):
        PowerCurve(2.0, 1e6, -0.5)
    with pytest.raises(ConfigError, match="scale_tokens"):
        PowerCurve(2.0, float("nan"), 0.5)


def test_an_exponent_of_nearly_zero_is_told() -> None:
    flat = Chinchilla(1.0, 1.0, 1e-20, 400.0, 1e-20)
    with pytest.raises(ConfigError, match="too near to 0"):
        flat.curve(1e6)
    with pytest.raises(ConfigError, match="too near to 0"):
        flat.cheapest(2.0)

"""Does a fit recover the law behind curves, and do its intervals hold what they say?

    PYTHONPATH=src python benchmarks/law_fit.py [--draws 100] [--noise 0.005] [--points 30]

Draws curves of five sizes from a known Chinchilla law, with noise on the loss, fits each, and counts how often the 90 %
intervals hold the truth: for the constants, for a loss inside the data, and for a size three times larger than any fitted one.
Two kinds of noise: independent from point to point, and correlated along a curve (AR(1), 0.7), as real validation losses are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from outgrow.planning.laws import Chinchilla, fit_law
from outgrow.planning.laws.forms import CHINCHILLA_FORM

TRUTH = Chinchilla(1.8, 180.0, 0.32, 1200.0, 0.42)
SIZES = np.geomspace(3e5, 1e7, 5)
QUESTIONS: dict[str, Callable[[Chinchilla], float]] = {
    "irreducible_loss": lambda law: law.irreducible_loss,
    "parameter_exponent": lambda law: law.parameter_exponent,
    "token_exponent": lambda law: law.token_exponent,
    "loss, inside": lambda law: float(law.loss(3e6, 5e7)),
    "loss, 3 x size": lambda law: float(law.loss(3e7, 2e8)),
    "tokens to 3.2, 3 x size": lambda law: float(law.tokens(3e7, 3.2)),
}


def noise(random: np.random.Generator, points: int, scale: float, correlation: float) -> np.ndarray:
    """Gaussian noise of this scale along one curve; `correlation` between neighbours."""
    fresh = random.normal(size=points)
    values = np.empty(points)
    values[0] = fresh[0]
    for place in range(1, points):
        values[place] = correlation * values[place - 1] + np.sqrt(1 - correlation**2) * fresh[place]
    return scale * values


def one_fit(seed: int, scale: float, points: int, correlation: float) -> dict[str, tuple[float, bool]]:
    """Relative error and whether the interval holds the truth, per question."""
    random = np.random.default_rng(seed)
    tokens = np.tile(np.geomspace(2e6, 2e8, points), len(SIZES))
    parameters = np.repeat(SIZES, points)
    scatter = np.concatenate([noise(random, points, scale, correlation) for _ in SIZES])
    loss = TRUTH.loss(parameters, tokens) * np.exp(scatter)
    curve = np.repeat(np.arange(len(SIZES)), points)
    fitted = fit_law(
        CHINCHILLA_FORM, {"parameters": parameters, "tokens": tokens}, loss, curve, draws=200, seed=seed
    )
    result = {}
    for name, question in QUESTIONS.items():
        interval, truth = fitted.interval(question), question(TRUTH)
        result[name] = (interval.value / truth - 1, interval.contains(truth))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.005)
    parser.add_argument("--points", type=int, default=30)
    options = parser.parse_args()
    for correlation in (0.0, 0.7):
        began = time.monotonic()
        fits = [one_fit(s, options.noise, options.points, correlation) for s in range(options.draws)]
        print(f"\nnoise {options.noise:.1%} of the loss, correlation {correlation}, {options.draws} draws")
        print(f"{'':26}{'rms error':>12}{'coverage of 90 %':>20}")
        for name in QUESTIONS:
            errors = np.array([fit[name][0] for fit in fits])
            held = np.mean([fit[name][1] for fit in fits])
            print(f"{name:26}{np.sqrt(np.mean(errors**2)):12.2%}{held:20.0%}")
        print(f"{(time.monotonic() - began) / options.draws:.2f} s per fit with its 200 bootstrap draws")


if __name__ == "__main__":
    main()

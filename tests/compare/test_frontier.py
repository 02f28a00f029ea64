"""The curve through decayed losses: true to laws, monotone, and never beyond its ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.comparing.frontier import Frontier, MonotoneCurve, best_of, compute_at, least_compute

KNOTS = st.lists(
    st.tuples(st.floats(0.1, 3.0), st.one_of(st.just(0.0), st.floats(1e-3, 2.0))), min_size=1, max_size=7
)
"""Steps to the right and down, or level."""


@given(KNOTS, st.floats(0, 1), st.floats(0, 1))
def test_the_curve_goes_through_its_knots_and_only_falls(
    steps: list[tuple[float, float]], one: float, other: float
) -> None:
    places = np.cumsum([width for width, _ in steps]).tolist()
    values = (5 - np.cumsum([fall for _, fall in steps])).tolist()
    curve = MonotoneCurve.through(places, values)
    assert [curve.at(place) for place in places] == pytest.approx(values)
    low, high = sorted(places[0] + share * (places[-1] - places[0]) for share in (one, other))
    assert curve.at(low) >= curve.at(high) - 1e-12
    value = values[-1] + one * (values[0] - values[-1])
    assert curve.at(curve.where(value)) == pytest.approx(value)


@pytest.mark.parametrize("power", [0.1, 0.4, 0.9, 1.4])
@pytest.mark.parametrize("budgets", [(2.4, 3.5, 4.9), (2.1, 3.2, 4.2, 5.6)], ids=str)
def test_a_law_is_read_nearly_without_bias(power: float, budgets: tuple[float, ...]) -> None:
    """Where straight lines are up to 3 % too high, always in favour of a growth."""
    knots, wrong, straight = 3 + np.array(budgets) ** -power, [], []
    for true in np.geomspace(budgets[0], budgets[-1], 41):
        loss = 3 + true**-power
        found, _ = compute_at(budgets, knots, loss)
        assert found is not None
        wrong.append(abs(found / true - 1))
        straight.append(np.exp(np.interp(-loss, -knots, np.log(budgets))) / true - 1)
    assert max(wrong) < 0.006
    assert max(wrong) < 0.3 * max(straight)
    assert min(straight) > -1e-9


def test_nothing_is_extrapolated() -> None:
    losses = np.array([4.0, 3.5, 3.2])
    assert compute_at((1e12, 2e12, 4e12), losses, 3.1) == (None, "better than every budget")
    assert compute_at((1e12, 2e12, 4e12), losses, 4.1) == (None, "worse than every budget")


def test_a_budget_that_is_worse_than_a_smaller_one_does_not_count() -> None:
    losses = np.array([4.0, 3.4, 3.5, 3.0])
    found, side = compute_at((1e12, 2e12, 3e12, 4e12), losses, 3.4)
    assert side == "inside"
    assert found == pytest.approx(2e12)


def test_the_best_size_at_every_compute() -> None:
    compute, losses = best_of([Frontier((1.0, 4.0), ((4.0, 3.0),)), Frontier((2.0, 8.0), ((3.5, 3.2),))])
    assert compute == (1.0, 2.0, 4.0, 8.0)
    assert losses.tolist() == [4.0, 3.5, 3.0, 3.0]


def test_two_arms_of_equal_compute_count_once() -> None:
    twice = [Frontier((1.0, 4.0), ((4.0, 3.1),)), Frontier((1.0, 4.0), ((3.9, 3.2),))]
    compute, losses = best_of(twice)
    assert (compute, losses.tolist()) == ((1.0, 4.0), [3.9, 3.1])
    assert compute_at(compute, losses, 3.5)[0] == pytest.approx(2.0)


def test_a_worse_size_does_not_weaken_the_second_baseline() -> None:
    """The end of the other size lies above the curve of the first, between two of its budgets."""
    first, other = Frontier((2.0, 8.0), ((4.0, 3.0),)), Frontier((1.0, 4.0), ((4.5, 3.6),))
    assert least_compute([first, other], 3.4)[0] == compute_at(first.compute, first.mean(), 3.4)[0]
    assert least_compute([first, other], 2.9) == (None, "better than every budget")
    assert (
        least_compute([first, Frontier((1.5, 4.0), ((3.3, 3.2),))], 3.6)[0] == 1.5
    )  # its smallest budget is enough
    between, _ = least_compute([first, other], 4.2)
    assert between is not None
    assert 1.0 < between < 2.0

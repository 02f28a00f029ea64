"""The instrument itself: no saving between equals, 20 % where 20 % is given, nothing outside the frontier."""

from __future__ import annotations

import numpy as np
import pytest

from outgrow.comparing.frontier import Frontier
from outgrow.comparing.intervals import student_95
from outgrow.comparing.saving import Saving, savings, seeds_for


def curve(compute: tuple[float, ...], factor: float = 1.0, noise: float = 0.0, seed: int = 0) -> Frontier:
    """A power law of the compute, reached with `factor` times less of it."""
    random = np.random.Generator(np.random.PCG64(seed))
    losses = [
        [2.0 + 3.0 * (value / factor / 1e12) ** -0.1 + noise * random.standard_normal() for value in compute]
        for _ in range(3)
    ]
    return Frontier(compute, tuple(map(tuple, losses)))


BUDGETS = tuple(float(value) for value in np.geomspace(1e12, 4e12, 9))


def test_an_arm_that_needs_a_fifth_less_shows_a_fifth() -> None:
    cheaper = tuple(0.8 * value for value in BUDGETS)
    for one in savings(curve(cheaper, factor=0.8), curve(BUDGETS)):
        assert one.saving == pytest.approx(0.2, abs=0.01)
        assert one.speed_up == pytest.approx(0.25, abs=0.02)
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.saving <= one.high


def test_two_equal_arms_have_an_interval_around_zero() -> None:
    """90 % intervals of 60 pairs of equal arms with three seeds: 48 or more hold 0 with probability 0.998."""
    held = 0
    for seed in range(60):
        full = curve(BUDGETS, noise=0.004, seed=seed)
        arm = Frontier(full.compute[4:5], tuple(row[4:5] for row in full.losses))
        (one,) = savings(arm, curve(BUDGETS, noise=0.004, seed=seed + 100), draws=200)
        assert one.low is not None
        assert one.high is not None
        held += one.low < 0 < one.high
    assert held >= 48


def test_a_fifth_is_seen_through_noise() -> None:
    cheaper = tuple(0.8 * value for value in BUDGETS)
    middle = savings(curve(cheaper, 0.8, noise=0.002, seed=1), curve(BUDGETS, noise=0.002, seed=2))[4]
    assert middle.saving == pytest.approx(0.2, abs=0.05)
    assert middle.low is not None
    assert middle.high is not None
    assert middle.low < 0.2 < middle.high


def test_a_loss_outside_the_frontier_has_no_saving() -> None:
    better = Frontier((1e12,), ((3.0,),))
    (one,) = savings(better, Frontier((1e12, 2e12), ((4.0, 3.5),)))
    assert one.saving is None
    assert one.side == "better than every budget"


def test_the_seeds_that_are_said_bring_the_interval_there() -> None:
    """Ten seeds of a spread say how many it takes for ± 3 points; that many of the same spread have it, one less has not."""
    spread = 0.06

    def with_seeds(count: int) -> Saving:
        half = student_95(count - 1) * spread / count**0.5
        return Saving(1.0, 3.0, 0.2, 0.2 - half, 0.2 + half, 0.25, "inside", 1.0)

    wanted = seeds_for(with_seeds(10), 10, 0.03)
    assert wanted is not None
    enough, short = with_seeds(wanted), with_seeds(wanted - 1)
    assert enough.low is not None
    assert short.low is not None
    assert enough.low >= 0.17 > short.low
    assert seeds_for(with_seeds(10), 10, 1e-4) is None


def test_students_quantiles_beyond_the_table() -> None:
    """Published: 1.796 for 11 degrees of freedom, 1.697 for 30, 1.660 for 100."""
    assert [round(student_95(degrees), 3) for degrees in (11, 30, 100)] == [1.796, 1.697, 1.660]

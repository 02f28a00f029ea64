"""Differences seed by seed: what a seed's data do to both arms falls out of them, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest

from compare.test_worth import study_result
from outgrow.comparing.frontier import Frontier
from outgrow.comparing.intervals import difference_of_means, mean_of_seeds
from outgrow.comparing.paired import paired_differences
from outgrow.report.compare_readings import paired_table
from outgrow.report.compare_tables import sections

COMPUTE = (1e12, 2e12, 4e12, 8e12)
SLOPE = 0.1
"""Nats per e-fold of compute, on curves that are straight in log C: the cubic through them is exact."""


def on_line(compute: tuple[float, ...], factor: float, shift: float) -> Frontier:
    """One seed that needs `factor` of the compute, its losses moved by `shift` nats."""
    losses = tuple(4.0 - SLOPE * log(one / factor / 1e12) + shift for one in compute)
    return Frontier(compute, (losses,))


def test_what_seeds_share_falls_out() -> None:
    """Both arms are moved alike by each seed's data: a saving of 20 % on every one, whatever the seeds do."""
    shifts = (-0.03, 0.0, 0.05)
    arm = [on_line((1.6e12, 3.2e12), 0.8, shift) for shift in shifts]
    full = [on_line(COMPUTE, 1.0, shift) for shift in shifts]
    for one in paired_differences(arm, full):
        assert one.savings == pytest.approx((0.2, 0.2, 0.2), abs=1e-12)
        assert one.saving is not None
        assert (one.saving.low, one.saving.high) == pytest.approx((0.2, 0.2), abs=1e-12)
        assert one.loss is not None
        assert (one.loss.low, one.loss.high) == pytest.approx((SLOPE * log(0.8),) * 2, abs=1e-12)
        two = one.loss_of_two_means
        assert two is not None
        assert two.high is not None
        # Equal spreads, so that Welch's degrees of freedom are 2 · (n - 1) = 4, whose quantile is 2.132.
        assert two.high - two.mean == pytest.approx(2.132 * stdev(shifts) * sqrt(2 / 3), rel=1e-9)


def test_a_seed_outside_its_baseline_leaves_no_paired_mean() -> None:
    """The second seed is better than all of its own baseline: the others' mean would be one of chosen seeds."""
    arm = [on_line((6.4e12,), 0.8, 0.0), on_line((6.4e12,), 0.8, -0.2)]
    full = [on_line(COMPUTE, 1.0, 0.0)] * 2
    (one,) = paired_differences(arm, full)
    assert one.savings[0] == pytest.approx(0.2, abs=1e-9)
    assert one.savings[1] is None
    assert one.saving is None
    assert one.losses == pytest.approx([SLOPE * log(0.8), SLOPE * log(0.8) - 0.2])
    (beyond,) = paired_differences([on_line((9e12,), 0.8, 0.15)], full[:1])
    assert beyond.savings[0] is not None
    assert beyond.losses is None  # its compute is beyond every budget, its loss is not


def test_paired_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 200 studies of three seeds that share two thirds of their noise, 180 should hold it: 167 or more do with p = 0.998.

    Those of two means hold it nearly always, being too wide.
    """
    random = np.random.Generator(np.random.PCG64(3))
    held = wider = 0
    for _ in range(200):
        shared, own = 0.004 * random.standard_normal(3), 0.002 * random.standard_normal((2, 3))
        arm = [on_line((3.2e12,), 0.8, shift) for shift in shared + own[0]]
        full = [on_line(COMPUTE, 1.0, shift) for shift in shared + own[1]]
        (one,) = paired_differences(arm, full)
        assert one.loss is not None
        assert one.loss_of_two_means is not None
        assert one.loss.low is not None
        assert one.loss.high is not None
        assert one.loss_of_two_means.low is not None
        held += one.loss.low <= SLOPE * log(0.8) <= one.loss.high
        wider += one.loss_of_two_means.low < one.loss.low
    assert held >= 167
    assert wider > 100


def test_intervals_against_published_ones() -> None:
    """Sleep data of Student (1908), extra hours under two drugs: R gives these 90 % intervals by `t.test`."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    paired = mean_of_seeds([b - a for a, b in zip(first, second, strict=True)])
    assert paired.mean == pytest.approx(1.58)
    assert paired.low is not None
    # s = 1.2300 (published t = 4.0621 on 9 degrees of freedom), and t(9) = 1.833.
    assert paired.mean / (paired.mean - paired.low) == pytest.approx(4.0621 / 1.833, rel=1e-4)
    apart = difference_of_means(second, first)
    assert apart.low is not None
    # Published: t = 1.8608 on 17.776 degrees of freedom, here 17, whose quantile is 1.740.
    assert apart.mean / (apart.mean - apart.low) == pytest.approx(1.8608 / 1.740, rel=1e-3)
    assert mean_of_seeds([2.0]).low is None
    assert difference_of_means([2.0], [1.0, 1.5]).low is None


def test_the_report_shows_both(corpus: Path, tmp_path: Path) -> None:
    found = study_result(corpus, tmp_path, worth=0.8, cost=0.2, small=500)
    shift = {0: -0.05, 1: 0.0, 2: 0.05}
    points = [
        replace(point, loss=point.loss + shift[point.seed], seconds=point.flops) for point in found.points
    ]
    moved = replace(found, points=tuple(points))
    one = moved.paired()["stack"][0]
    assert one.saving is not None
    assert one.saving.low == pytest.approx(one.saving.high)  # the seeds moved both arms alike
    assert one.saving.mean == pytest.approx(found.savings()["stack"][0].saving, rel=1e-6)
    two = moved.savings_of_two_means()["stack"][0]
    assert two.low is not None
    assert two.high is not None
    assert two.high - two.low > 0.1
    row = paired_table(moved).rows[0]
    each = f"{100 * one.saving.mean:.1f}"
    assert row[2:4] == (f"{each}, {each}, {each}", f"{each} % ({each} to {each})")
    assert sections(moved)[1].heading == "Seed by seed"
    assert moved.to_json()["paired"]["stack"][0]["savings"] == pytest.approx(one.savings)
    single = replace(found, study=found.study.model_copy(update={"seeds": (0,)}))
    assert not paired_table(single).rows

"""The readings of papers, on curves where each is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from compare.test_worth import TOKEN, study_result
from outgrow.comparing.frontier import Frontier
from outgrow.comparing.readings import optimality_of, saved_at
from outgrow.comparing.result import StudyResult
from outgrow.report.compare_readings import readings_table


def wide_result(corpus: Path, output: Path, exponent: float) -> StudyResult:
    """Undecayed losses on L = 2 + 2 (C / C_0)^-exponent over FLOPs; the arm needs nine tenths of the baseline's compute, decayed or not."""
    found = study_result(corpus, output, worth=1.0, cost=0.5, small=400)

    def undecayed(flops: float, factor: float) -> float:
        return 2.0 + 2.0 * (flops / factor / (TOKEN * 1000)) ** -exponent

    points = tuple(
        replace(
            point,
            seconds=point.flops,
            undecayed_loss=undecayed(point.undecayed_flops, 0.9 if point.arm == "stack" else 1.0),
        )
        for point in found.points
    )
    return replace(found, points=points)


def test_before_the_decay_the_saving_is_that_of_the_trunks(corpus: Path, tmp_path: Path) -> None:
    found = wide_result(corpus, tmp_path, 0.2)
    for one in found.undecayed_savings()["stack"]:
        # The cubic is within 0.6 % of power laws (frontier.py).
        assert one.saving == pytest.approx(0.1, abs=0.006)
    decayed = found.savings()["stack"][0].saving
    assert decayed is not None
    assert abs(decayed - 0.1) > 0.01  # another number: this one is read after it


def test_optimality_is_where_the_slope_is(corpus: Path, tmp_path: Path) -> None:
    """d ln L / d ln C of 2 + 2 c^-a is -a · 2 c^-a / L: -0.052 at L = 2 / (1 - 0.052 / a)."""
    found = wide_result(corpus, tmp_path, 0.108)
    at = found.optimality()
    assert at is not None
    # The cubic's slope is right to about 1 %; here that moves log C by 0.01 · 0.052 / (0.108² / 4) = 0.18, and L by 0.052 times that.
    assert at.loss == pytest.approx(2 / (1 - 0.052 / 0.108), rel=0.01)
    flops = TOKEN * 1000 * (at.loss / 2 - 1) ** (-1 / 0.108)
    assert at.flops == pytest.approx(flops, rel=0.006)  # and it is where the curve has this loss
    saved = found.saved_at_optimality()["stack"]
    assert saved is not None
    assert saved.mean == pytest.approx(0.1, abs=0.006)
    steep = wide_result(corpus, tmp_path, 0.5)
    assert steep.optimality() is None  # it ends before
    assert steep.saved_at_optimality() == {"stack": None}
    assert readings_table(steep).rows[0][7] == "baseline too short"


def test_no_slope_of_one_budget() -> None:
    assert optimality_of(Frontier((1e12,), ((3.0,),))) is None


def test_a_seed_that_does_not_come_there_leaves_none() -> None:
    full = [Frontier((1e12, 4e12), ((4.0, 3.0),))] * 2
    arm = [Frontier((1e12, 4e12), ((4.0, 3.0),)), Frontier((1e12, 4e12), ((4.0, 3.6),))]
    assert saved_at(arm, full, 3.5) is None
    both = saved_at(arm, full, 3.8)
    assert both is not None
    # Seed 1 falls 0.4 where the baseline falls 1 nat: half of it is ln 2 in log C, the baseline's fifth 0.2 · ln 4.
    second = 1 - np.exp(log(4) * (0.5 - 0.2))
    assert both.mean == pytest.approx(second / 2)


def test_equal_steps_has_both_figures(corpus: Path, tmp_path: Path) -> None:
    found = wide_result(corpus, tmp_path, 0.2)
    (first, *_) = found.equal_tokens()["stack"]
    assert first.saving is not None
    # 1,400 tokens of the grown model after 400 at half its price, beside 1,800 of it.
    assert first.saving == pytest.approx(1 - 1600 / 1800, rel=1e-9)
    assert first.speed_up == pytest.approx(1800 / 1600 - 1, rel=1e-9)
    table = readings_table(found)
    assert table.rows[0][8:10] == ("11.1 %", "12.5 %")
    written = found.to_json()
    assert written["optimality"] is None
    assert written["undecayed"]["stack"][0]["saving"] == pytest.approx(0.1, abs=0.006)

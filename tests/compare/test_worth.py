"""What a small stage's token is worth and costs, where both are known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compare.tiny import text_study
from outgrow.comparing import parse_study
from outgrow.comparing.result import Point, StudyResult
from outgrow.report.compare_tables import worth_rows

TOKEN = 6e6
"""FLOPs of a token of the baseline's model."""


def law(tokens: float) -> float:
    """Loss of the baseline after some tokens."""
    return 2 + 30 * tokens**-0.4


def study_result(
    corpus: Path, output: Path, *, worth: float, cost: float, small: int, noise: float = 0.0
) -> StudyResult:
    """A baseline on a power law, and an arm that is as good as the baseline after last + worth · small tokens."""
    budgets = [1000, 1400, 2000, 2800, 4000]
    content = text_study(corpus, output, seeds=[0, 1, 2], budgets=budgets)
    content["arms"].pop("identity")
    content["arms"]["stack"]["budgets"] = budgets[1:3]
    study = parse_study(content)
    random = np.random.default_rng(0)

    def point(arm: str, seed: int, last: int) -> Point:
        before = small if arm == "stack" else 0
        return Point(
            arm=arm,
            seed=seed,
            rate=2e-3,
            budget=last,
            loss=law(last + worth * before) + noise * float(random.standard_normal()),
            accuracy=None,
            tokens=last + before,
            tokens_sunk=last,
            flops=TOKEN * (last + cost * before),
            flops_sunk=TOKEN * last,
            undecayed_loss=law(0.8 * last + worth * before) + 0.1,
            undecayed_flops=TOKEN * (0.8 * last + cost * before),
            seconds=1.0,
            parameters=1_000,
            folder="",
        )

    points = tuple(
        point(arm, seed, budget)
        for arm in ("scratch", "stack")
        for seed in study.seeds
        for budget in study.arm_budgets(arm)
    )
    return StudyResult(
        study=study,
        points=points,
        sweep=(),
        rates={"scratch": 2e-3, "stack": 2e-3},
        sweep_flops=0.0,
        downstream={},
    )


@pytest.mark.parametrize(("worth", "cost"), [(0.7, 0.3), (1.2, 0.4), (0.2, 0.5), (-0.3, 0.25)])
def test_worth_and_cost_are_read_back(corpus: Path, tmp_path: Path, worth: float, cost: float) -> None:
    result = study_result(corpus, tmp_path, worth=worth, cost=cost, small=600)
    assert result.worths()["scratch"] == (None,) * 5
    for one, paid, last in zip(
        result.worths()["stack"], result.savings()["stack"], (1400, 2000), strict=True
    ):
        assert one is not None
        assert paid.saving is not None
        assert one.worth == pytest.approx(worth, abs=0.02)  # the cubic is within 0.6 % in compute
        assert one.cost == pytest.approx(cost)
        assert one.share == pytest.approx(600 / (last + worth * 600), rel=0.01)
        assert one.share * (one.worth - one.cost) == pytest.approx(paid.saving)
        assert (paid.saving > 0) == (worth > cost)


def test_the_interval_holds_the_worth_and_widens_with_noise(corpus: Path, tmp_path: Path) -> None:
    widths = []
    for noise in (0.003, 0.012):
        result = study_result(corpus, tmp_path, worth=0.7, cost=0.3, small=600, noise=noise)
        one = result.worths()["stack"][1]
        assert one is not None
        assert one.low is not None
        assert one.high is not None
        assert one.low < 0.7 < one.high
        widths.append(one.high - one.low)
    assert widths[1] > 2 * widths[0]


def test_the_table_has_a_row_for_each_saving(corpus: Path, tmp_path: Path) -> None:
    found = worth_rows(study_result(corpus, tmp_path, worth=0.7, cost=0.3, small=600))
    assert [row[0] for row in found] == ["stack", "stack"]
    assert found[0][-1] == "13.2 %"  # 600 / 1820 · 0.4
    outside = study_result(corpus, tmp_path, worth=6.0, cost=0.3, small=600)
    assert worth_rows(outside) == []

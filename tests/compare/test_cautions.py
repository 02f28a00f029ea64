"""What a report warns of, on results made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from compare.tiny import SMALL, text_study
from outgrow.train.compare import parse_study
from outgrow.train.compare.cautions import cautions
from outgrow.train.compare.result import Point, StudyResult


def result(corpus: Path, output: Path, *, rival_flops: float | None) -> StudyResult:
    """A baseline of 20 tokens per parameter, an arm of 600 FLOPs and maybe a small model from scratch; rates inside the grid."""
    content = text_study(corpus, output, seeds=[0, 1, 2], tuning={"rates": [1e-3, 2e-3, 4e-3], "seed": 0})
    content["arms"].pop("identity")
    ends = {"scratch": (500.0, 1000.0), "stack": (300.0, 600.0)}
    if rival_flops is not None:
        content["arms"]["small"] = {"model": SMALL}
        ends["small"] = (rival_flops / 2, rival_flops)
    study = parse_study(content)
    points = tuple(
        Point(
            arm=arm,
            seed=seed,
            rate=2e-3,
            budget=budget,
            loss=5 - cost / 1000,
            accuracy=None,
            tokens=20_000,
            flops=cost,
            flops_sunk=cost,
            seconds=cost,
            parameters=1_000,
            folder="",
        )
        for arm, costs in ends.items()
        for seed in study.seeds
        for budget, cost in zip(study.arm_budgets(arm), costs, strict=True)
    )
    return StudyResult(
        study=study, points=points, sweep=(), rates=dict.fromkeys(ends, 2e-3), sweep_flops=0.0, downstream={}
    )


@pytest.mark.parametrize(
    ("rival_flops", "says"),
    [(None, "no second baseline"), (300.0, "'small' from scratch was trained for 50% of"), (600.0, None)],
)
def test_the_second_baseline(
    corpus: Path, tmp_path: Path, rival_flops: float | None, says: str | None
) -> None:
    found = cautions(result(corpus, tmp_path / "study", rival_flops=rival_flops))
    assert len(found) == (says is not None)
    assert all(says is not None and says in sentence for sentence in found)

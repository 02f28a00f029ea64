"""What a report warns of, on results made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compare.tiny import SMALL, text_study
from outgrow.comparing import parse_study
from outgrow.comparing.cautions import study_cautions
from outgrow.comparing.result import Point, StudyResult, SweepTrial


def result(
    corpus: Path, output: Path, *, rival_flops: float | None = 600.0, tokens: int = 40_000
) -> StudyResult:
    """A baseline of 1,000 parameters, an arm of 600 FLOPs and maybe a small model from scratch; rates inside the grid."""
    content = text_study(corpus, output, seeds=[0, 1, 2], tuning={"rates": [1e-3, 2e-3, 4e-3], "seeds": [0]})
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
            tokens=tokens,
            tokens_sunk=tokens,
            flops=cost,
            flops_sunk=cost,
            undecayed_loss=5.1 - 0.8 * cost / 1000,
            undecayed_flops=0.8 * cost,
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
    found = study_cautions(result(corpus, tmp_path / "study", rival_flops=rival_flops))
    assert len(found) == (says is not None)
    assert all(says is not None and says in sentence for sentence in found)


def test_a_saving_that_is_read_too_early(corpus: Path, tmp_path: Path) -> None:
    """Its loss is the baseline's at 574 of 1,000 FLOPs, after 23 tokens per parameter or 14.4."""
    assert study_cautions(result(corpus, tmp_path, tokens=40_000)) == ()
    early = result(corpus, tmp_path, tokens=25_000)
    assert early.tokens_per_parameter(5 - 0.5) == pytest.approx(12.5)
    assert early.tokens_per_parameter(5 - 0.4) is None  # worse than its smallest budget
    (caution,) = study_cautions(early)
    assert "less than 20 tokens per parameter (stack 14.4)" in caution
    (short,) = study_cautions(result(corpus, tmp_path, tokens=10_000))
    assert short.startswith("the baseline sees 10.0 tokens per parameter")


def test_a_sweep_that_settles_nothing(corpus: Path, tmp_path: Path) -> None:
    """Seeds of the baseline spread by 0.1 nats at the sweep's budget, so one seed decides no gap below 0.141."""
    found = result(corpus, tmp_path)
    points = tuple(
        replace(point, loss=point.loss + 0.1 * (point.seed - 1)) if point.arm == "scratch" else point
        for point in found.points
    )
    near = tuple(SweepTrial("scratch", 0, rate, 640, loss) for rate, loss in [(1e-3, 4.13), (2e-3, 4.0)])
    far = (replace(near[0], loss=4.15), near[1])
    (caution,) = study_cautions(replace(found, points=points, sweep=near))
    assert "(scratch 0.002 over 0.001 by 0.1300 ± 0.1414 nats)" in caution
    assert study_cautions(replace(found, points=points, sweep=far)) == ()
    assert study_cautions(replace(found, sweep=near)) == ()  # seeds that do not spread


def test_pieces_from_two_machines(corpus: Path, tmp_path: Path) -> None:
    found = result(corpus, tmp_path)
    assert study_cautions(replace(found, trained_on=({"device": "cpu"},))) == ()
    (caution,) = study_cautions(replace(found, trained_on=({"device": "cpu"}, {"device": "cuda"})))
    assert caution.startswith("2 different machines")


def test_an_interval_without_some_of_its_draws(corpus: Path, tmp_path: Path) -> None:
    """The arm ends near the worst loss of the baseline, and on one seed beyond it."""
    found = result(corpus, tmp_path)
    losses = {0: 4.6, 1: 4.47, 2: 4.4}
    points = tuple(
        replace(point, loss=losses[point.seed]) if (point.arm, point.budget) == ("stack", 320) else point
        for point in found.points
    )
    (caution,) = study_cautions(replace(found, points=points))
    assert "of the draws of 'stack' (300 FLOPs) lie outside" in caution

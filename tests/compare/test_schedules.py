"""Arms whose stages read otherwise: one order of data, honest counts, and what the schedule saves apart from the growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

import outgrow.training.loop as loop
from compare.tiny import GROW, SMALL, text_study
from outgrow.commands.compare import study_report
from outgrow.comparing import StudyConfig, parse_study, run_study
from outgrow.comparing.cautions import study_cautions
from outgrow.comparing.check import check_study
from outgrow.comparing.estimate import estimate
from outgrow.comparing.frontier import Frontier
from outgrow.comparing.parts import NoParts, SavingParts, parts_of
from outgrow.comparing.piece_trainer import PieceTrainer
from outgrow.comparing.pieces import all_pieces, arm_run, branches
from outgrow.comparing.result import Point, StudyResult
from outgrow.comparing.saving import savings
from outgrow.comparing.twins import twin_of
from outgrow.cost.flops import training_flops
from outgrow.errors import ConfigError
from outgrow.report.compare_parts import parts_table
from outgrow.report.compare_sizes import sizes_table
from outgrow.report.compare_tables import saving_rows, sections, study_verdict
from outgrow.training.folder import RunFolder, read_metrics

LARGE = {**SMALL, "num_hidden_layers": 2}
SHORT = {"data": {"sequence_length": 8}, "batch": {"sequences": 24}}
"""24 sequences of 8 tokens: steps of 192 tokens, where the study's have 64."""
STAGES: list[dict[str, Any]] = [
    {"tokens": 400, **SHORT, "precision": "bf16", "optimizer": {"eps": 1e-6, "gradient_clip": None}},
    {"grow": {**GROW, "depth": "stack"}},
]


def content(corpus: Path, output: Path, **replace: Any) -> dict[str, Any]:
    """Scratch, one grown from short sequences, and the full model from scratch with the same schedule."""
    arms = {
        "scratch": {"model": LARGE},
        "compound": {"model": SMALL, "stages": STAGES},
        "fair": {"schedule_of": "compound"},
    }
    return text_study(corpus, output, arms=arms, **{"seeds": [0], **replace})


def read_by(study: StudyConfig, arm: str, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The inputs of every step of an arm's trunk and last decay."""
    seen: list[torch.Tensor] = []
    real = loop.optimizer_step

    def step(model: Any, optimizer: Any, batch: Any, **others: Any) -> Any:
        seen.append(batch[0])
        return real(model, optimizer, batch, **others)

    *_, last = branches(study, arm, 0, 1e-2, study.arm_budgets(arm)[-1:])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", step)
        trainer = PieceTrainer(check_study(study, print), study.pieces_folder, print)
        trainer.train(last.piece.line, arm)
    return seen


def test_all_arms_read_one_order(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences are parts of the study's windows; what follows begins at a whole step of the study's."""
    study = parse_study(content(corpus, tmp_path, budgets=[320]))
    plain = parse_study(content(corpus, tmp_path, budgets=[320 + 384]))
    short = read_by(study, "compound", monkeypatch)
    # 400 tokens come to two steps of 192; 80 % of 320 and the rest in steps of 64.
    assert [tuple(one.shape) for one in short] == [(24, 8)] * 2 + [(4, 16)] * 5
    usual = read_by(plain, "scratch", monkeypatch)
    assert torch.equal(
        torch.cat([one.flatten() for one in short]), torch.cat([one.flatten() for one in usual])
    )


def test_longer_sequences_than_the_studys_order_all_arms(corpus: Path, tmp_path: Path) -> None:
    """The windows are those of the longest sequences of any arm, also for arms that have none of them."""
    found = content(corpus, tmp_path)
    found["arms"]["long"] = {
        "model": SMALL,
        "stages": [{"tokens": 64, "data": {"sequence_length": 32}}, {"grow": GROW}],
    }
    study = parse_study(found)
    windows = {
        arm: [piece.run("-").window for piece in branches(study, arm, 0, 1e-2, (320,))[0].piece.line]
        for arm in study.arms
    }
    assert {window for several in windows.values() for window in several} == {32}
    assert arm_run(study, "scratch").window == 32


def test_arms_without_a_schedule_keep_their_pieces(corpus: Path, tmp_path: Path) -> None:
    """What was trained before another arm had a length of its own is not trained again, and says nothing of windows."""
    study = parse_study(content(corpus, tmp_path))
    alone = parse_study(content(corpus, tmp_path) | {"arms": {"scratch": {"model": LARGE}}})
    with_others, without = (
        [piece.settings for piece in all_pieces(branches(one, "scratch", 0, 1e-2, (320, 640)))]
        for one in (study, alone)
    )
    assert with_others == without
    assert all("window" not in settings["data"] for settings in without)


def test_a_study_end_to_end(corpus: Path, tmp_path: Path) -> None:
    study = parse_study(content(corpus, tmp_path / "study"))
    planned = estimate(study, check_study(study, lambda _: None), measure=False)
    result = run_study(study, lambda _: None)
    ends = {(point.arm, point.budget): point for point in result.points}
    small, large = (
        {length: training_flops({**model, "vocab_size": 300}, length)[1] for length in (8, 16)}
        for model in (SMALL, LARGE)
    )
    for budget in (320, 640):
        assert ends["compound", budget].tokens == ends["fair", budget].tokens == 384 + budget
        assert ends["compound", budget].flops == 384 * small[8] + budget * large[16]
        assert ends["fair", budget].flops == 384 * large[8] + budget * large[16]
        assert ends["compound", budget].flops_sunk == budget * large[16]
    logs = [
        read_metrics(RunFolder(Path(study.pieces_folder) / piece.key).metrics)
        for arm in study.arms
        for piece in all_pieces(branches(study, arm, 0, 1e-2, (320, 640)))
    ]
    opened = [row for rows in logs for row in rows if row["kind"] == "stage"]
    assert {row["validation_length"] for row in opened} == {16}  # all are read at one length
    assert {row["sequence_length"] for row in opened} == {8, 16}
    assert {(row["sequence_length"], row["precision"]) for row in opened} == {(8, "bf16"), (16, "float32")}
    assert sum(one.flops for one in planned) == pytest.approx(sum(rows[-1]["flops"] for rows in logs))
    timing = (tmp_path / "study" / "timing.json").read_text()
    assert timing.count('"seconds_per_token"') == 3  # small and short, large and short, large and usual
    report = study_report(result)
    assert "What the schedule saves and what the growth" in report.markdown.read_text()
    assert (
        "schedule_of" not in report.markdown.read_text()
    )  # written out, so that the report can be run again


# ---- parts --------------------------------------------------------------------------------------------------------------


def on_line(compute: Sequence[float], factor: float, shifts: Sequence[float]) -> Frontier:
    """Losses straight in log C, which the cubic meets exactly; the arm needs `factor` of the compute."""
    rows = tuple(tuple(4.0 - 0.1 * log(one / factor / 1e12) + shift for one in compute) for shift in shifts)
    return Frontier(tuple(compute), rows)


def test_parts_add_up_to_the_saving() -> None:
    shifts = (-0.01, 0.0, 0.02)
    full = on_line((1e12, 2e12, 4e12), 1.0, shifts)
    twin = on_line((8e11, 1.6e12, 3.2e12), 0.8, (0.0, 0.002, -0.001))
    arm = on_line((1.2e12,), 0.6, (0.001, -0.002, 0.0))
    (one,) = parts_of(arm, twin, full)
    assert isinstance(one, SavingParts)
    (paid,) = savings(arm, full)
    assert paid.saving is not None
    assert one.whole.mean == pytest.approx(paid.saving, rel=1e-9)
    assert one.whole.mean == pytest.approx(one.schedule.mean + one.growth.mean, rel=1e-9)
    assert 1 - one.whole.mean == pytest.approx((1 - one.schedule.mean) * (1 - one.alone.mean), rel=1e-9)
    assert paid.low is not None
    assert one.whole.low is not None
    # 27 ways to draw three seeds, all of them here, against 1,000 drawn: a spread of 1 / √2000 of itself, and 4 times that.
    assert one.whole.mean - one.whole.low == pytest.approx(paid.saving - paid.low, rel=4 / 2000**0.5)


def test_seeds_that_move_all_arms_alike_leave_no_interval() -> None:
    shifts = (-0.01, 0.0, 0.02)
    several = (on_line((8e11, 3.2e12), 0.8, shifts), on_line((1e12, 4e12), 1.0, shifts))
    (one,) = parts_of(on_line((1.2e12,), 0.6, shifts), *several)
    assert isinstance(one, SavingParts)
    for part, mean in ((one.whole, 0.4), (one.schedule, 0.2), (one.growth, 0.2), (one.alone, 0.25)):
        assert part.mean == pytest.approx(mean, rel=1e-9)
        assert (part.low, part.high) == pytest.approx((mean, mean), abs=1e-9)


def test_a_loss_outside_says_whose_frontier() -> None:
    full, twin = on_line((1e12, 4e12), 1.0, (0.0,)), on_line((1e12, 1.1e12), 0.8, (0.0,))
    assert parts_of(on_line((4e12,), 0.5, (0.0,)), twin, full) == (
        NoParts("baseline", "better than every budget"),
    )
    assert parts_of(on_line((2e12,), 0.6, (0.0,)), twin, full) == (
        NoParts("twin", "better than every budget"),
    )
    late = on_line((2e12, 4e12), 0.8, (0.0,))
    assert parts_of(on_line((1.9e12, 2.1e12), 1.0, (0.0,)), late, full) == (
        NoParts("twin", "worse than every budget"),
        NoParts("twin", "worse than every budget", beaten=True),
    )
    (single,) = parts_of(on_line((8e11,), 0.6, (0.0,)), twin, full)
    assert isinstance(single, SavingParts)
    assert single.growth.low is None  # one seed has no interval


def made(corpus: Path, output: Path, costs: Mapping[str, Sequence[float]]) -> StudyResult:
    """A result whose arms lie on lines: `costs` in FLOPs, and what an arm needs of the baseline's compute."""
    found = content(corpus, output, seeds=[0, 1, 2], budgets=[320, 640, 1280])
    found["arms"] = {arm: found["arms"][arm] for arm in costs}
    study = parse_study(found)
    factors = {"scratch": 1.0, "fair": 0.8, "compound": 0.6}
    points = tuple(
        Point(
            arm=arm,
            seed=seed,
            rate=1e-2,
            budget=budget,
            loss=on_line([cost], factors[arm], [0.0]).losses[0][0],
            accuracy=None,
            tokens=budget,
            tokens_sunk=budget,
            flops=cost,
            flops_sunk=cost,
            undecayed_loss=5.0,
            undecayed_flops=0.8 * cost,
            seconds=cost / 1e9,
            parameters=10,
            folder="",
        )
        for arm, several in costs.items()
        for seed in study.seeds
        for budget, cost in zip((320, 640, 1280), several, strict=True)
    )
    return StudyResult(study, points, (), dict.fromkeys(costs, 1e-2), 0.0)


def test_a_size_that_ends_above_the_loss_may_reach_it_for_less(corpus: Path, tmp_path: Path) -> None:
    """`fair` needs 0.8 of the baseline at every loss, and is trained to no loss of `compound`: 0.6 of 0.8 is saved, not of 1."""
    costs = {"scratch": (1e12, 2e12, 4e12), "compound": (1.2e12, 1.5e12, 2e12), "fair": (8e11, 1e12, 1.2e12)}
    result = made(corpus, tmp_path, costs)
    loss = result.savings("flops")["compound"][-1].loss
    assert result.unread_sizes(loss) == ["fair"]
    assert "saves 40.0 %, or less: what fair would cost at this loss is not known." in study_verdict(result)
    assert [row[-1] for row in saving_rows(result) if row[0] == "compound"][-1] == "at most 40.0 %"
    longer = made(corpus, tmp_path, {**costs, "fair": (8e11, 1.6e12, 3.2e12)})
    assert longer.unread_sizes(loss) == []
    assert "Against the best size from scratch it saves 25.0 %." in study_verdict(longer)
    beside = {row[1:3]: row[3:] for row in sizes_table(longer).rows}
    assert list(beside) == [("320", "fair"), ("640", "fair"), ("1.28 K", "fair")]
    assert beside["640", "fair"] == ("25.0 % (25.0 to 25.0)",) * 2
    (one,) = longer.to_json()["beside"]
    assert (one["arm"], one["beside"]) == ("compound", "fair")
    assert one["savings"][1]["saving"] == pytest.approx(0.25)
    assert {row[3] for row in sizes_table(result).rows if row[1] == "1.28 K"} == {"better than every budget"}


def test_the_report_tells_schedule_and_growth_apart(corpus: Path, tmp_path: Path) -> None:
    costs = {"scratch": (1e12, 2e12, 4e12), "compound": (7e11, 1.2e12, 3e12), "fair": (8e11, 1.6e12, 3.2e12)}
    result = made(corpus, tmp_path, costs)
    rows = parts_table(result).rows
    assert [row[:3] for row in rows[:2]] == [("compound", "320", "FLOPs"), ("compound", "320", "time")]
    assert rows[0][3:] == ("40.0 % (40.0 to 40.0)", *["20.0 % (20.0 to 20.0)"] * 2, "25.0 % (25.0 to 25.0)")
    assert rows[-1][3:] == ("better than every budget", "", "", "")
    assert sections(result)[2].rows == rows
    study = result.study.model_copy(update={"budgets": (320, 640)})
    shorter = StudyResult(study, tuple(p for p in result.points if p.budget < 1280), (), result.rates, 0.0)
    assert "Of that, the schedule saves 20.0 % without any growth, and the growth 20.0 %." in study_verdict(
        shorter
    )
    assert shorter.to_json()["parts"]["seconds"]["compound"][0]["schedule"]["mean"] == pytest.approx(0.2)


def test_a_verdict_says_that_the_schedule_alone_is_better(corpus: Path, tmp_path: Path) -> None:
    costs = {"scratch": (1e12, 2e12, 4e12), "compound": (7e11, 9e11, 1e12), "fair": (9e11, 1.6e12, 3.2e12)}
    result = made(corpus, tmp_path, costs)
    fair = {point.budget: point.loss for point in result.points if point.arm == "fair"}
    worse = [
        replace(point, loss=fair[320] + 0.01) if point.arm == "compound" else point for point in result.points
    ]
    beaten = StudyResult(result.study, tuple(worse), (), result.rates, 0.0)
    assert "The same schedule from scratch does better for less" in study_verdict(beaten)
    assert (
        parts_table(beaten).rows[-1][3].endswith("worse than every budget of fair, which is better for less")
    )


def test_a_verdict_is_not_of_the_only_arm_that_can_be_read(corpus: Path, tmp_path: Path) -> None:
    """An arm that ends better than the whole baseline is no worse than one that ends on it."""
    costs = {"scratch": (1e12, 2e12, 4e12), "compound": (7e11, 1.2e12, 3e12)}
    result = made(corpus, tmp_path, costs)
    outside = " Not read, because better than every budget of the baseline: compound."
    assert study_verdict(result).endswith("nothing can be said of a saving." + outside)
    arms = {**result.study.arms, "late": result.study.arms["compound"]}
    study = result.study.model_copy(update={"arms": arms})
    late = tuple(
        replace(point, arm="late", flops=1.2 * point.flops)
        for point in result.points
        if point.arm == "scratch"
    )
    points = tuple(
        replace(one, loss=result.points[0].loss - 0.01) if one.budget == 1280 else one for one in late
    )
    both = StudyResult(study, result.points + points, (), {**result.rates, "late": 1e-2}, 0.0)
    assert study_verdict(both).startswith("late loses")
    assert study_verdict(both).endswith(outside)


def test_a_schedule_without_a_twin_is_warned_of(corpus: Path, tmp_path: Path) -> None:
    costs = {"scratch": (1e12, 2e12, 4e12), "compound": (7e11, 1.2e12, 2e12), "fair": (8e11, 1.6e12, 3.2e12)}
    alone = made(corpus, tmp_path, {arm: costs[arm] for arm in ("scratch", "compound")})
    assert any("add an arm {schedule_of: compound}" in one for one in study_cautions(alone))
    assert parts_table(alone).rows == []
    both = study_cautions(made(corpus, tmp_path, costs))
    assert not any("schedule_of" in one for one in both)
    assert any(
        "no second baseline" in one for one in both
    )  # the twin is of the same size: no smaller model was tried


# ---- what a study may say -----------------------------------------------------------------------------------------------


def test_the_schedule_of_an_arm_is_written_out(corpus: Path, tmp_path: Path) -> None:
    found = content(corpus, tmp_path)
    found["arms"]["compound"]["stages"] = [{**STAGES[0], "rate": 0.5}, STAGES[1]]
    found["arms"]["fair"]["budgets"] = [320, 640, 1280]
    study = parse_study(found)
    found["arms"]["fair"] = {
        "model": LARGE,
        "stages": [{**STAGES[0], "rate": 0.5}, {}],
        "budgets": [320, 640, 1280],
    }
    assert parse_study(found) == study
    assert twin_of(study, "compound") == "fair"
    assert twin_of(study, "fair") is None


@pytest.mark.parametrize(
    ("stages", "twin"),
    [
        ([{"tokens": 192, **SHORT}, {"tokens": 192, **SHORT, "grow": GROW}, {"grow": GROW}], "fair"),
        ([{"tokens": 192, **SHORT}, {"tokens": 192, "grow": GROW}, {"grow": GROW}], None),
        ([{"tokens": 384, **SHORT, "until": {"loss": 3.0}}, {"grow": GROW}], None),
        ([{"tokens": 384}, {"grow": GROW}], None),
    ],
)
def test_a_twin_changes_where_the_arm_does(
    corpus: Path, tmp_path: Path, stages: list[dict[str, Any]], twin: str | None
) -> None:
    """However many growths lie between, and whatever else the stages have."""
    arms = {
        "scratch": {"model": LARGE},
        "compound": {"model": SMALL, "stages": stages},
        "fair": {"model": LARGE, "stages": [{"tokens": 384, **SHORT}, {}]},
    }
    assert twin_of(parse_study(text_study(corpus, tmp_path, arms=arms)), "compound") == twin


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ({"fair": {"schedule_of": "componud"}}, r"arms\.fair\.schedule_of: no such arm with stages"),
        ({"fair": {"schedule_of": 3}}, "no such arm with stages"),
        ({"fair": {"schedule_of": "fair"}}, "no such arm with stages"),
        (
            {"fair": {"schedule_of": "compound", "stages": []}},
            "the stages are those of the arm that it names",
        ),
        ({"fair": {"schedule_of": "scratch"}}, "'scratch' has no schedule"),
        ({"compound": {"model": SMALL, "stages": "many"}}, r"arms\.compound\.stages: expected a list"),
        (
            {"compound": {"model": SMALL, "stages": [{**STAGES[0], "until": {"loss": 3.0}}, STAGES[1]]}},
            "a trigger ends a stage of 'compound'",
        ),
        (
            {"compound": {"model": SMALL, "stages": [STAGES[0], {**STAGES[1], "precision": "bf16"}]}},
            r"stages\[1\]\.precision: losses are read in the last stage",
        ),
        ({"scratch": {"model": LARGE, "stages": [{"tokens": 64, **SHORT}, {}]}}, "'scratch' has 2 stages"),
    ],
)
def test_mistakes_are_named(corpus: Path, tmp_path: Path, arms: dict[str, Any], says: str) -> None:
    found = content(corpus, tmp_path)
    found["arms"] |= arms
    with pytest.raises(ConfigError, match=says):
        parse_study(found)


def test_a_schedule_without_a_baseline_says_so(corpus: Path, tmp_path: Path) -> None:
    says = r"arms\.fair\.schedule_of: the model is the baseline's(.|\n)*got: +baseline: scrach"
    with pytest.raises(ConfigError, match=says):
        parse_study(content(corpus, tmp_path, baseline="scrach"))


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"data": {"sequence_length": 12}}, "sequences of 12 tokens do not divide"),
        ({"data": {"sequence_length": 8}, "batch": {"sequences": 3}}, "give sequences a multiple of 2"),
        ({"batch": {"sequences": 6, "micro_batch": 4}}, "micro_batch 4 does not divide sequences 6"),
        ({"optimizer": {"momentum": 0.9}}, r"optimizer\.momentum: adamw has none"),
    ],
)
def test_what_a_stage_cannot_read_is_found_before_any_training(
    corpus: Path, tmp_path: Path, own: dict[str, Any], says: str
) -> None:
    found = content(corpus, tmp_path / "out")
    found["arms"]["compound"]["stages"] = [{"tokens": 4096, **own}, STAGES[1]]
    del found["arms"]["fair"]
    with pytest.raises(ConfigError, match=says):
        run_study(parse_study(found), lambda _: None)
    assert not (tmp_path / "out").exists()

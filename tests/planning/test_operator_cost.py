"""What an operator costs, read off runs: the truth comes back, noise averages out, and what cannot be read is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from outgrow.errors import ConfigError
from outgrow.planning.cautions import plan_cautions
from outgrow.planning.curves import CurveFile, read_curves
from outgrow.planning.curves.curve import make_curve
from outgrow.planning.curves.falling import falling, falling_law
from outgrow.planning.curves.grown import read_grown_curve
from outgrow.planning.plan_file import parse_plan
from outgrow.planning.stages import replay_path
from outgrow.planning.stages.measured import MeasuredOperator, PilotCost, pilot_cost
from outgrow.planning.worked import work_out
from planning import pilots
from planning.pilots import LARGE, TOKENS, Row, config, grown_log, scratch_log, write
from test_cli import outgrow, refused


def measured(folder: Path, grown: list[Row], scratch: list[Row]) -> PilotCost:
    """The cost of one pair of logs."""
    run = read_grown_curve(write(folder / "grown", grown))
    (own,) = read_curves(CurveFile(write(folder / "scratch", scratch)))
    return pilot_cost(run, falling(own))


def test_a_constant_cost_comes_back(tmp_path: Path) -> None:
    cost = measured(tmp_path, grown_log(), scratch_log())
    assert cost.loss_gap == pytest.approx(0.05, abs=1e-12)
    assert cost.lost_tokens == pytest.approx(600_000, rel=0.01)
    np.testing.assert_allclose(cost.last_half, 600_000, rtol=0.01)
    assert cost.tokens[-1] == 60 * TOKENS
    assert cost.small is not None
    assert cost.small["hidden_size"] == 16


@pytest.mark.parametrize("end", [-400_000.0, 900_000.0])
def test_a_cost_that_settles_is_that_of_the_end(tmp_path: Path, end: float) -> None:
    cost = measured(
        tmp_path, grown_log(gap=-0.01, lost=lambda t: end * (1 - np.exp(-t / 8e5))), scratch_log()
    )
    assert cost.loss_gap == pytest.approx(-0.01, abs=1e-12)
    assert cost.lost_tokens == pytest.approx(end, rel=0.01)
    truth = end * (1 - np.exp(-cost.tokens / 8e5))
    np.testing.assert_allclose(cost.lost, truth, atol=0.01 * abs(end))


def test_a_fitted_curve_serves_as_the_own_curve(tmp_path: Path) -> None:
    grown = read_grown_curve(write(tmp_path, grown_log()))
    cost = pilot_cost(grown, falling_law("the law", LARGE, 1e5, 1.2e7))
    assert cost.lost_tokens == pytest.approx(600_000, rel=1e-4)
    assert len(cost.lost) == 60


SPREAD = 34_000
"""Lost tokens of one pilot with validation noise of 0.1 % (20 seeds): one reading has 90 k, the median of 15 much less."""


def test_noise_averages_out_over_seeds(tmp_path: Path) -> None:
    costs = [
        measured(tmp_path / str(seed), grown_log(noise=1e-3, seed=seed), scratch_log(noise=1e-3, seed=seed))
        for seed in range(8)
    ]
    operator = MeasuredOperator(tuple(costs))
    spread = operator.lost_tokens_spread
    assert spread is not None
    assert 0.4 * SPREAD < spread < 2 * SPREAD
    assert abs(operator.lost_tokens - 600_000) < 3 * SPREAD / 8**0.5
    assert operator.loss_gap_spread == pytest.approx(0.0, abs=1e-12)
    low, high = operator.last_half
    assert low < operator.lost_tokens < high
    assert MeasuredOperator(tuple(costs[:1])).lost_tokens_spread is None


def test_pooling_is_the_nearest_falling_curve() -> None:
    """Against the closed form: point i is the least over j <= i of the greatest over k >= i of the mean of points j to k."""
    loss = 4 - 0.05 * np.arange(25) + 0.2 * np.random.default_rng(3).normal(size=25)
    tokens = 1e5 * np.arange(1, 26)
    found = falling(make_curve("a", 1e6, tokens.tolist(), loss.tolist(), places=["line"] * 25))
    mean = [[loss[j : k + 1].mean() if j <= k else np.inf for k in range(25)] for j in range(25)]
    best = [min(max(mean[j][k] for k in range(i, 25)) for j in range(i + 1)) for i in range(25)]
    np.testing.assert_allclose(found.loss, sorted(set(np.round(best, 12)), reverse=True), rtol=1e-9)
    assert (np.diff(found.log_tokens) > 0).all()


def test_only_the_full_learning_rate_counts(tmp_path: Path) -> None:
    """A decay at the end of both runs, and a re-warm-up after the growth: points there are left out, and that is said."""

    def decayed(log: list[Row], last: int) -> list[Row]:
        return [
            row
            if row["kind"] != "validation" or row["tokens"] < last
            else {**row, "val_loss": 0.9 * row["val_loss"]}
            for row in log
        ]

    grown = decayed(
        grown_log(rate=lambda t: 0.5 if t <= 2_200_000 else 1.0 if t < 7_000_000 else 0.3), 7_000_000
    )
    scratch = decayed(scratch_log(rate=lambda t: 1.0 if t < 10_000_000 else 0.3), 10_000_000)
    cost = measured(tmp_path, grown, scratch)
    assert cost.lost_tokens == pytest.approx(600_000, rel=0.01)
    assert cost.tokens[0] == 300_000
    assert cost.tokens[-1] == 4_900_000
    assert "13 points in re-warm-up or decay left out" in cost.notes


def test_curves_that_overlap_in_part(tmp_path: Path) -> None:
    short = measured(tmp_path / "short", grown_log(), scratch_log(count=60))
    assert short.lost_tokens == pytest.approx(600_000, rel=0.01)
    assert short.tokens[-1] < 60 * TOKENS
    (note,) = short.notes
    assert "below the lowest loss" in note
    assert f"those at {short.tokens[-1]:.3g} of 6e+06 tokens" in note
    spike = measured(tmp_path / "spike", grown_log(gap=3.0, lost=lambda t: 500_000.0), scratch_log())
    assert spike.loss_gap == pytest.approx(3.0)
    assert "is taken to be 0" in spike.notes[0]
    unknown = float(LARGE.tokens(LARGE.loss(TOKENS)))
    assert 500_000 - unknown <= spike.lost_tokens <= 500_000 * 1.01


def test_several_growths_and_a_run_from_a_checkpoint(tmp_path: Path) -> None:
    log = grown_log()
    place = next(place for place, row in enumerate(log) if row["kind"] == "growth")
    twice = [log[0], {**log[place], "tokens": 0}, *log[1:]]
    cost = measured(tmp_path / "twice", twice, scratch_log())
    assert cost.lost_tokens == pytest.approx(600_000, rel=0.01)
    assert "2 growths in this run: the last one is measured" in cost.notes
    log[place + 1]["probe_flops"] = 1e12
    cost = measured(tmp_path / "alone", log[place:], scratch_log())
    assert MeasuredOperator((cost, cost)).operator("both").flops == 1e12
    assert cost.lost_tokens == pytest.approx(600_000, rel=0.01)
    assert cost.small is None
    assert "began with the growth" in cost.notes[0]


def broken(kind: str, place: int = 0, **values: Any) -> list[Row]:
    """A grown run with other values in one row."""
    log = grown_log()
    row = [row for row in log if row["kind"] == kind][place]
    row.update(values)
    return log


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        (scratch_log(), "no growth in this run"),
        (broken("growth", loss_after=float("nan")), "line 42: loss_after is not a positive number"),
        (broken("growth", loss_before="low"), "line 42: loss_before is not a number"),
        (broken("validation", -1, val_loss=float("nan")), "line 163: val_loss is not a positive number"),
        (broken("validation", -1, tokens=100_000), "line 163: tokens goes back"),
        (broken("train", 19, lr=5e-4), "grown while the learning rate was below its peak"),
        (broken("stage", 1, peak=None), "line 43: peak is not a number"),
        (broken("stage", 1, config=None), "line 43: the stage's row has no config"),
        (grown_log(count=4), "too few points for a curve"),
        (grown_log(rate=lambda t: 0.5), "too few points at the full learning rate after the growth"),
        (
            [row for row in grown_log() if row["tokens"] <= 2_000_000][:-1],
            "no row of kind 'stage' after the growth",
        ),
        (
            [row for row in grown_log() if row["kind"] != "train" or row["stage"] == "small"],
            "no row of kind 'train'",
        ),
    ],
)
def test_mistakes_in_grown_runs(tmp_path: Path, grown: list[Row], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_grown_curve(write(tmp_path, grown))
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("grown", "scratch", "said"),
    [
        (grown_log(), scratch_log(count=6), "never has the loss at which the grown model"),
        (grown_log(count=8), scratch_log()[:1] + scratch_log()[41:], "begins below the loss at which"),
        (grown_log(lost=lambda t: 0.0), scratch_log(count=8), "too few losses in common"),
        (grown_log(), scratch_log(rate=lambda t: 1.0 if t < 4e5 else 0.1), "too few points at the full"),
        (
            grown_log(),
            [row | ({"val_loss": 4.0} if "val_loss" in row else {}) for row in scratch_log()],
            "does not fall",
        ),
    ],
)
def test_curves_that_do_not_fit_together(
    tmp_path: Path, grown: list[Row], scratch: list[Row], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        measured(tmp_path, grown, scratch)


PLAN: dict[str, Any] = {
    "target": {"size": "large", "tokens": "12M"},
    "model": pilots.MODEL,
    "candidates": [
        {"name": name, "sizes": {k: v for k, v in config(name).items() if k not in pilots.MODEL}}
        for name in pilots.SIZES
    ],
    "sequence_length": 16,
    "worth": 0.0,
}


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A plan whose law is fitted to both sizes' curves; keywords are the cost of growing in both."""
    small = [
        pilots.stage("small", 0),
        *pilots.points(
            "small", range(TOKENS, 6_000_001, TOKENS), lambda t: float(pilots.SMALL.loss(t)), pilots.full
        ),
    ]
    curves = [
        {"path": str(write(tmp_path / "law" / "small", small))},
        {"path": str(write(tmp_path / "law" / "large", scratch_log()))},
    ]

    def make(**both: Any) -> dict[str, Any]:
        law = {"kind": "fit", "form": "per_size", "draws": 20, "curves": curves}
        return {**PLAN, "law": law, "operators": {"both": both}}

    return make


def seeds(folder: Path, count: int, **grown: Any) -> dict[str, str]:
    """Pilots of so many seeds, as globs."""
    for seed in range(count):
        write(folder / f"grown-{seed}", grown_log(noise=1e-3, seed=seed, **grown))
        write(folder / f"scratch-{seed}", scratch_log(noise=1e-3, seed=seed))
    return {"grown": f"{folder}/grown-*/metrics.jsonl", "scratch": f"{folder}/scratch-*"}


def test_a_plan_takes_what_was_measured(tmp_path: Path, plan: Callable[..., dict[str, Any]]) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(plan(measured=seeds(tmp_path, 3))))
    shown = outgrow("plan", file)
    assert shown.returncode == 0, shown.stderr
    assert "measured on pilots" in shown.stdout
    facts = json.loads(outgrow("plan", file, "--json").stdout)
    both = facts["operators"][2]
    found = both["measured"]
    assert both["growth"] == "both"
    assert found["loss_gap"] == pytest.approx(0.05, abs=1e-9)
    assert found["lost_tokens"] == pytest.approx(600_000, abs=3 * SPREAD / 3**0.5)
    assert 0 < found["lost_tokens_spread"] < 3 * SPREAD
    assert [Path(one["grown"]).parent.name for one in found["pilots"]] == [f"grown-{k}" for k in range(3)]
    assert [Path(one["scratch"]).parent.name for one in found["pilots"]] == [f"scratch-{k}" for k in range(3)]
    typed = {"loss_gap": found["loss_gap"], "lost_tokens": round(found["lost_tokens"])}
    given = work_out(parse_plan(plan(**typed)))
    assert facts["schedules"][1]["flops"] == pytest.approx(given.paths[1].total_flops, rel=1e-6)
    assert facts["schedules"][1]["saving"] < work_out(parse_plan(plan())).saving(1)


def test_the_plans_own_fit_serves_as_the_curve(tmp_path: Path, plan: Callable[..., dict[str, Any]]) -> None:
    log = write(tmp_path / "grown", grown_log())
    worked = work_out(parse_plan(plan(measured={"grown": str(log)})))
    cost = worked.measured["both"]
    assert cost.lost_tokens == pytest.approx(600_000, rel=0.01)
    assert "the fitted curve of" in cost.pilots[0].own
    assert worked.problem.operators[2].lost_tokens == cost.lost_tokens
    again = replay_path(
        worked.problem, (0, 1), (2_000_000,), json.loads(log.read_text().splitlines()[-1])["val_loss"]
    )
    assert again.tokens[1] == pytest.approx(60 * TOKENS, rel=1e-3)  # the plan predicts the pilot itself


def test_a_gain_is_told_and_not_planned_with(tmp_path: Path, plan: Callable[..., dict[str, Any]]) -> None:
    pair = seeds(tmp_path, 1, lost=lambda since: -500_000.0, gap=0.0)
    worked = work_out(parse_plan(plan(measured=pair)))
    assert worked.measured["both"].lost_tokens == pytest.approx(-500_000, rel=0.2)
    assert worked.problem.operators[2].lost_tokens == 0
    said = " ".join(plan_cautions(worked))
    assert "were faster than their own size from scratch" in said
    assert "taken to be perfect" not in said


def test_what_is_to_be_known_about_a_measured_cost(
    tmp_path: Path, plan: Callable[..., dict[str, Any]]
) -> None:
    drifting = {"grown": str(write(tmp_path / "drift", grown_log(lost=lambda since: 0.21 * since, count=20)))}
    assert "had not settled" in " ".join(plan_cautions(work_out(parse_plan(plan(measured=drifting)))))
    numbers = {**plan(measured=seeds(tmp_path, 1)), "law": {"kind": "chinchilla"}, "model": None}
    numbers["candidates"] = [{"name": "small", "parameters": "1M"}, {"name": "large", "parameters": "4M"}]
    said = " ".join(plan_cautions(work_out(parse_plan(numbers))))
    assert "lost tokens are taken to be the same" in said
    for folder, sequences in (("grown-0", 8), ("scratch-0", 16)):
        (tmp_path / folder / "run.yaml").write_text(yaml.safe_dump({"batch": {"sequences": sequences}}))
    log = tmp_path / "scratch-0" / "metrics.jsonl"
    log.write_text(log.read_text().replace('"peak": 0.001', '"peak": 0.003'))
    (pilot,) = work_out(parse_plan(numbers)).measured["both"].pilots
    assert "differs in more than the growth: batch.sequences 8 and 16" in pilot.notes[-1]
    assert "the learning rate's peak 0.001 and 0.003" in pilot.notes[-1]


def test_mistakes_in_plans(tmp_path: Path, plan: Callable[..., dict[str, Any]]) -> None:
    pair = seeds(tmp_path, 3)

    def said(config: dict[str, Any]) -> str:
        file = tmp_path / "plan.yaml"
        file.write_text(yaml.safe_dump(config))
        return refused("plan", file)

    assert "leave out lost_tokens" in said(plan(measured=pair, lost_tokens=5))
    assert "did you mean grown" in said(plan(measured={"gown": "a"}))
    assert "operators.both.measured.grown is missing" in said(plan(measured={}))
    assert "operators.both.measured: no curve file matches" in said(plan(measured={"grown": "none/*"}))
    assert "3 grown and 2 scratch" in said(plan(measured=pair | {"scratch": f"{tmp_path}/scratch-[01]"}))
    swapped = said(plan(measured={"grown": pair["grown"], "scratch": pair["grown"]}))
    assert "not the size to which" in swapped
    assert "layers 1 (grown: 3)" in swapped
    wrong = plan()
    wrong["operators"] = {"depth": {"measured": pair}}
    assert "put it under operators.both.measured" in said(wrong)
    unfitted = {**plan(measured={"grown": pair["grown"]}), "law": {"kind": "chinchilla"}}
    assert "scratch is missing" in said(unfitted)
    curve = tmp_path / "curve.csv"
    curve.write_text("parameters,tokens,loss\n" + "".join(f"5e6,{k}e5,{4 - 0.1 * k}\n" for k in range(1, 9)))
    other = {
        **plan(measured={"grown": pair["grown"]}),
        "law": {"kind": "fit", "draws": 20, "form": "per_size", "curves": [{"path": str(curve)}]},
    }
    assert "not fitted to a curve of the grown size" in said(other)
    assert "not the log of a run" in said(plan(measured=pair | {"scratch": str(curve)}))
    assert "not the log of a run" in said(plan(measured={"grown": str(tmp_path)}))

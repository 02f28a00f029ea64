"""A real run's log is a curve: what the trainer writes is what the planner reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from outgrow.cost.flops import training_flops_per_token
from outgrow.planning.curves import CurveFile, read_curves, select
from outgrow.planning.curves.falling import falling
from outgrow.planning.curves.grown import read_grown_curve
from outgrow.planning.stages.measured import pilot_cost
from outgrow.run.run_file import parse_run
from outgrow.training.folder import read_metrics
from outgrow.training.loop import train_run


def test_the_log_of_a_staged_run(tiny: Callable[..., dict[str, Any]]) -> None:
    run = parse_run(tiny(evaluation={"every_tokens": 128, "sequences": 4}))
    train_run(run)
    folder = Path(run.output)
    (curve,) = read_curves(CurveFile(folder))
    rows = read_metrics(folder / "metrics.jsonl")
    opening = next(row for row in rows if row["kind"] == "stage")
    assert curve.parameters == opening["parameters"]
    own = [row for row in rows if row["kind"] == "validation" and row["stage"] == "small"]
    assert curve.tokens.tolist() == [row["tokens"] for row in own]
    np.testing.assert_array_equal(curve.loss, [row["val_loss"] for row in own])
    assert curve.flops_per_token == training_flops_per_token(opening["config"], run.data.sequence_length)
    assert "stages after a growth left out: large" in curve.notes
    assert len(select(curve, "all").tokens) == len(own)


def test_what_a_growth_cost_in_real_runs(tiny: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A run that grows, and its grown size from scratch: both logs are what a plan measures an operator on."""
    often = {
        "evaluation": {"every_tokens": 128, "sequences": 8},
        "schedule": {"kind": "constant", "warmup_tokens": 128},
        "checkpoint": {"every_steps": 100, "keep": 1},
        "log_every_steps": 1,
    }
    small, large = tiny()["stages"]
    grown = parse_run(tiny(**often, stages=[small, {**large, "tokens": 64 * 24}]))
    train_run(grown)
    sizes = {**tiny()["model"], **large["grow"]["to"], "intermediate_size": 24}
    whole = [{"name": "whole", "tokens": 64 * 50}]
    scratch = parse_run(tiny(**often, output=str(tmp_path / "whole"), model=sizes, stages=whole))
    train_run(scratch)
    run = read_grown_curve(Path(grown.output) / "metrics.jsonl")
    (curve,) = read_curves(CurveFile(Path(scratch.output)))
    cost = pilot_cost(run, falling(curve))
    rows = read_metrics(Path(grown.output) / "metrics.jsonl")
    growth = next(row for row in rows if row["kind"] == "growth")
    assert cost.loss_gap == growth["loss_after"] - growth["loss_before"]
    at_full_rate = [row for row in rows if row["kind"] == "validation" and row["tokens"] >= 64 * 12 + 256]
    assert run.tokens.tolist() == [
        row["tokens"] - 64 * 12 for row in at_full_rate
    ]  # a re-warm-up of 128 tokens
    assert "1 points in re-warm-up or decay left out" in run.notes
    own = [
        (row["tokens"], row["val_loss"])
        for row in read_metrics(Path(scratch.output) / "metrics.jsonl")
        if row["kind"] == "validation"
    ]

    def reached(loss: float) -> int:
        return next(tokens for tokens, value in own if value <= loss)

    needed = reached(at_full_rate[-1]["val_loss"]) - reached(growth["loss_after"])
    assert needed > 512
    assert (
        abs(cost.lost[-1] - (cost.tokens[-1] - needed)) <= 2 * 128
    )  # validations of both losses are 128 tokens apart

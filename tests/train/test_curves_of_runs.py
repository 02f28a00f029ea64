"""A real run's log is a curve: what the trainer writes is what the planner reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from outgrow.curves import CurveFile, read_curves, select
from outgrow.flops import training_flops_per_token
from outgrow.train.folder import read_metrics
from outgrow.train.loop import train
from outgrow.train.run_file import parse_run


def test_the_log_of_a_staged_run(tiny: Callable[..., dict[str, Any]]) -> None:
    run = parse_run(tiny(evaluation={"every_tokens": 128, "sequences": 4}))
    train(run)
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

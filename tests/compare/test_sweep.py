"""The sweep of learning rates: the mean over its seeds decides, and a rate that diverges is a result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from compare.tiny import SMALL
from compare.tiny import text_study as study
from outgrow.comparing import parse_study, run_study
from outgrow.comparing.check import check_study
from outgrow.comparing.estimate import estimate
from outgrow.comparing.result import SweepTrial
from outgrow.comparing.sweeps import best_rate
from outgrow.errors import TrainingError
from outgrow.report.compare_tables import sections


def test_the_mean_over_seeds_chooses() -> None:
    """Seed 0 alone would take the smaller rate; over both seeds the larger is ahead; one that diverges is out."""
    ends = [(0, 1e-3, 3.0), (0, 2e-3, 3.1), (1, 1e-3, 3.4), (1, 2e-3, 3.2)]
    trials = [SweepTrial("a", seed, rate, 320, loss) for seed, rate, loss in ends]
    assert best_rate(trials[:2], "a") == 1e-3
    assert best_rate(trials, "a") == 2e-3
    assert best_rate([*trials, SweepTrial("a", 2, 2e-3, 320, math.inf)], "a") == 1e-3


def test_a_sweep_has_seeds_of_its_own(corpus: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {"arms": {"scratch": {"model": SMALL}}, "budgets": [320], "seeds": [0]}
    tuning = {"rates": [1e-2, 2e-2], "seeds": [3, 4]}
    result = run_study(parse_study(study(corpus, tmp_path, tuning=tuning, **content)), lambda _: None)
    assert [(trial.rate, trial.seed) for trial in result.sweep] == [
        (1e-2, 3),
        (1e-2, 4),
        (2e-2, 3),
        (2e-2, 4),
    ]
    table = sections(result)[-1]
    mean = fmean(trial.loss for trial in result.sweep if trial.rate == 1e-2)
    assert table.rows[0][2].startswith(f"{mean:.4f}")
    assert "mean over seeds 3, 4" in table.note


def test_a_rate_that_diverges_is_a_result_of_the_sweep(corpus: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {"arms": {"scratch": {"model": SMALL}}, "budgets": [3200], "seeds": [0]}
    wide = {"rates": [1e-2, 1e30], "seeds": [0]}
    parsed, said = parse_study(study(corpus, tmp_path / "wide", tuning=wide, **content)), []
    result = run_study(parsed, said.append)
    assert result.rates == {"scratch": 1e-2}
    assert any("diverges" in line for line in said)
    assert sections(result)[-1].rows[0][-1] == "diverged"
    assert json.loads((tmp_path / "wide" / "study.json").read_text())["sweep"][1]["loss"] is None
    again: list[str] = []
    assert run_study(parsed, again.append) == result
    assert not any("% of the tokens" in line for line in again)
    (left,) = estimate(parsed, check_study(parsed, lambda _: None), measure=False)
    assert left.there == left.pieces
    wild = parse_study(study(corpus, tmp_path / "wild", tuning={"rates": [1e30]}, **content))
    with pytest.raises(TrainingError, match="arm 'scratch' diverges at every learning rate"):
        run_study(wild, lambda _: None)

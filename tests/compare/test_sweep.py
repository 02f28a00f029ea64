"""The sweep of learning rates: the mean over its seeds decides, and a rate that diverges is a result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
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
from outgrow.comparing.study import RefineConfig
from outgrow.comparing.sweeps import best_rate, next_rates
from outgrow.errors import ConfigError, TrainingError
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


def replayed(
    loss: Callable[[float], float], rates: tuple[float, ...], rule: RefineConfig
) -> dict[float, float]:
    """All rates that the rule tries on a curve, in its order."""
    found = {rate: loss(rate) for rate in rates}
    while more := next_rates(found, rule)[: rule.most - (len(found) - len(rates))]:
        found |= {rate: loss(rate) for rate in more}
    return found


@pytest.mark.parametrize("best", [3e-5, 7e-4, 1.9e-3, 2e-2, 0.3])
def test_the_rule_brackets_the_best_wherever_it_is(best: float) -> None:
    """On a valley in log rate the best is found to the rule's factor, and to the square of it at most between two rates."""
    found = replayed(
        lambda rate: math.log(rate / best) ** 2, (1e-3, 2e-3, 4e-3), RefineConfig(to=1.3, most=30)
    )
    rates = sorted(found)
    place = rates.index(min(found, key=lambda rate: found[rate]))
    assert 0 < place < len(rates) - 1
    assert rates[place] / rates[place - 1] <= 1.3 * 1.01  # three digits of a rate
    assert rates[place + 1] / rates[place] <= 1.3 * 1.01
    assert rates[place - 1] < best < rates[place + 1]


def test_the_rule_is_bounded_and_knows_divergence() -> None:
    def falling(rate: float) -> float:
        return math.inf if rate > 5e-2 else -rate

    few = replayed(falling, (1e-3, 2e-3), RefineConfig(to=1.3, most=3))
    assert list(few) == [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
    many = replayed(falling, (1e-3, 2e-3), RefineConfig(to=1.3, most=30))
    best = max(rate for rate, loss in many.items() if math.isfinite(loss))
    assert 5e-2 / 1.3 < best <= 5e-2  # a rate that diverges brackets as any other
    wild = replayed(lambda _: math.inf, (1e-2, 1e-1), RefineConfig(to=1.3, most=2))
    assert list(wild)[2:] == [1e-3, 1e-4]  # all diverge: smaller ones


def test_a_sweep_goes_on_by_its_rule_and_after_a_stop(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates far too small: the rule doubles them until `most` is used, a stopped study goes on, and the report counts all."""
    import outgrow.comparing.piece_trainer as piece_trainer

    tuning = {"rates": [1e-5, 2e-5], "refine": {"to": 1.5, "most": 2}}
    content: dict[str, Any] = {
        "arms": {"scratch": {"model": SMALL}},
        "budgets": [320],
        "seeds": [0],
        "tuning": tuning,
    }
    parsed = parse_study(study(corpus, tmp_path / "out", **content))
    (before,) = estimate(parsed, check_study(parsed, lambda _: None), measure=False)
    assert before.refine_tokens == 2 * 320
    real, count = piece_trainer.train_run, 0

    def dying(run: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 6:  # trunk and decay of both rates are there, and the third rate's trunk
            raise KeyboardInterrupt
        return real(run, **options)

    monkeypatch.setattr(piece_trainer, "train_run", dying)
    with pytest.raises(KeyboardInterrupt):
        run_study(parsed, lambda _: None)
    monkeypatch.setattr(piece_trainer, "train_run", real)
    result = run_study(parsed, lambda _: None)
    losses = {trial.rate: trial.loss for trial in result.sweep}
    assert list(losses) == [1e-5, 2e-5, 4e-5, 8e-5]
    assert result.rates["scratch"] == min(losses, key=lambda rate: losses[rate]) == 8e-5
    assert any("is the largest of the sweep (8e-05)" in caution for caution in result.cautions)
    grid, added = sections(result)[-2:]
    assert grid.columns == ("arm", "budget", "1e-05", "2e-05")
    assert "4 trainings" in grid.note
    assert [row[:2] for row in added.rows] == [("scratch", "4e-05"), ("scratch", "8e-05")]
    assert added.rows[1][2].endswith(" *")
    (after,) = estimate(parsed, check_study(parsed, lambda _: None), measure=False)
    assert (after.refine_tokens, after.there) == (0, after.pieces)
    with pytest.raises(ConfigError, match=r"tuning: refine goes on by the step between rates"):
        parse_study(study(corpus, tmp_path, tuning={**tuning, "rates": [1e-5]}))
    with pytest.raises(ConfigError, match=r"tuning.refine.to"):
        parse_study(study(corpus, tmp_path, tuning={**tuning, "refine": {"to": 1, "most": 2}}))
    with pytest.raises(ConfigError, match=r"unknown key tuning.refine.mots"):
        parse_study(study(corpus, tmp_path, tuning={**tuning, "refine": {"to": 2, "mots": 2}}))

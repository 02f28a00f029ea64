"""The trigger: on curves from a known law it fires where the law says, and in a run it decides the same after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outgrow.engine.step import optimizer_step
from outgrow.errors import ConfigError
from outgrow.run.reentry import Factors
from outgrow.run.run_file import parse_run
from outgrow.run.until import PUBLISHED_SLOPE, Threshold, UntilEfficiency, UntilLoss, threshold
from outgrow.training import loop, train_run
from outgrow.training.folder import read_metrics
from outgrow.training.preflight import preflight
from outgrow.training.trigger import Monitor, fit_trend
from train.test_loop import bits, rows_without_times

Tiny = Callable[..., dict[str, Any]]
A, B = 0.076, 0.76  # Kaplan's exponents (arXiv 2001.08361)


def kaplan(tokens: Any, size: float) -> Any:
    """Loss of a model of `size` (1: the small one) after so many tokens; asymptote 3 at size 1."""
    return 3.0 * size**-A + (2e9 / tokens) ** B


def tokens_at(loss: float, size: float) -> float:
    return float(2e9 / (loss - 3.0 * size**-A) ** (1 / B))


def best_switch(size: float, target: float) -> float:
    """Tokens of the small model before the cheapest growth by `size`, by trying all."""
    switch = np.geomspace(1e8, 1e12, 40_001)
    loss = kaplan(switch, 1.0)
    start = 2e9 / (loss - 3.0 * size**-A) ** (1 / B)
    cost = switch + size * (tokens_at(target, size) - start)
    return float(switch[np.argmin(cost)])


def ended(monitor: Monitor, tokens: np.ndarray[Any, Any], losses: np.ndarray[Any, Any]) -> float:
    for reached, loss in zip(tokens.tolist(), losses.tolist(), strict=True):
        decision = monitor.see(reached, loss)
        if decision is not None and decision.verdict == "end":
            return float(reached)
    raise AssertionError("the trigger never fired")


@pytest.mark.parametrize("size", [2.0, 4.0, 8.0])
def test_the_law_threshold_is_the_cheapest_switch(size: float) -> None:
    best = best_switch(size, target=2.9)
    wanted = threshold(UntilEfficiency(trigger="efficiency"), Factors(2, 1, size, size), "here")
    loss = kaplan(best, 1.0)
    slope = -B * (2e9 / best) ** B / loss
    assert wanted.at(loss) == pytest.approx(slope, rel=2e-3)  # the grid of switches is 0.02 % apart

    gain = 3.0 - 3.0 * size**-A
    own = UntilEfficiency(trigger="efficiency", asymptote_gain=gain)
    assert threshold(own, Factors(2, 1, size, size), "here").at(loss) == pytest.approx(slope, rel=2e-3)


def test_without_a_next_model_the_frontier_is_waited_for() -> None:
    until = UntilEfficiency(trigger="efficiency")
    # On the frontier the last stage is a/b above its asymptote (arXiv 2001.08361, appendix B.4), here at a fixed batch.
    share = (A / B) / (1 + A / B)
    assert threshold(until, None, "here").slope == pytest.approx(-B * share)


@pytest.mark.parametrize(("noise", "within"), [(0.0, 0.05), (0.02, 0.10)])
def test_it_fires_near_the_cheapest_switch(noise: float, within: float) -> None:
    size, total = 4.0, 2e10
    best = best_switch(size, target=2.9)
    tokens = np.arange(1, 2001) * total / 2000
    generator = np.random.default_rng(0)
    losses = kaplan(tokens - total / 4000, 1.0) + noise * generator.standard_normal(len(tokens))
    until = UntilEfficiency(trigger="efficiency")
    wanted = threshold(until, Factors(2, 1, size, size), "here")
    end = ended(Monitor(until, wanted, position=0, first=0, total=total), tokens, losses)
    assert (
        abs(end / best - 1) < within + 3 * 0.01 * total / best
    )  # patience: three checks, a hundredth of the stage each
    assert best < 0.6 * total  # neither bound of the stage did it


def test_bounds_and_patience() -> None:
    tokens = np.arange(1, 401) * 5e7
    losses = kaplan(tokens - 2.5e7, 1.0)

    def fires(**options: Any) -> float:
        until = UntilLoss(loss=3.5, **options)
        return ended(Monitor(until, None, position=0, first=0, total=2e10), tokens, losses)

    at = fires(patience=1)  # checked every hundredth of the stage
    assert kaplan(at, 1.0) <= 3.5 < kaplan(at - 2.5e8, 1.0)
    assert fires(patience=4) == at + 3 * 2e8
    assert fires(patience=1, min_tokens=10**10) == 1e10
    assert fires(patience=1, check_tokens=7 * 10**9) == 7e9
    with pytest.raises(AssertionError, match="never fired"):
        ended(Monitor(UntilLoss(loss=2.9), None, position=0, first=0, total=2e10), tokens, losses)


def test_a_slow_start_is_not_taken_for_the_end() -> None:
    """Flat, then steep, then flat: it fires in the second flat part only."""
    tokens = np.arange(1, 1001) * 1e6
    losses = np.interp(tokens, [0, 1.5e8, 5e8, 1e9], [9.0, 8.9, 4.0, 3.99])
    until = UntilEfficiency(trigger="efficiency", threshold=-0.05, patience=5)
    end = ended(Monitor(until, Threshold(-0.05), position=0, first=0, total=1e9), tokens, losses)
    assert end > 5e8


def test_the_fit_says_how_sure_it_is() -> None:
    generator = np.random.default_rng(1)
    tokens = np.linspace(1e9, 2e9, 60)
    slopes, errors = [], []
    for _ in range(300):
        found = fit_trend(
            tokens.tolist(), kaplan(tokens, 1.0) + 0.02 * generator.standard_normal(60), [1.0] * 60, B
        )
        slopes.append(found.slope)
        errors.append(found.error)
    truth = -B * (2e9 / tokens[-1]) ** B / kaplan(tokens[-1], 1.0)
    assert np.mean(slopes) == pytest.approx(truth, abs=3 * np.std(slopes) / 300**0.5)
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.15)


def test_published_slopes_are_for_doublings() -> None:
    until = UntilEfficiency(trigger="efficiency", threshold="published")
    assert threshold(until, Factors(1, 2, 2, 1.9), "here").slope == PUBLISHED_SLOPE["depth"]
    with pytest.raises(ConfigError, match=r"stages\.0\.until(.|\n)*width x 1\.5"):
        threshold(until, Factors(1.5, 1, 2, 2), "stages.0.until")


# ---- in a run -------------------------------------------------------------------------------------------------------


def stages(tiny: Tiny, until: dict[str, Any], **options: Any) -> dict[str, Any]:
    data = tiny(checkpoint={"every_steps": 5, "keep": 1}, log_every_steps=1, **options)
    data["stages"][0] |= {"tokens": 64 * 40, "until": until}
    return data


LOSS = {"loss": 5.0, "patience": 2, "min_tokens": 640, "check_tokens": 64}


def test_a_stage_ends_at_a_loss_and_everything_follows(tiny: Tiny, tmp_path: Path) -> None:
    run = parse_run(stages(tiny, LOSS))
    result = train_run(run, progress=False)
    small, large = result.stages
    assert 640 <= small.tokens < 64 * 40
    assert large.tokens == 64 * 12

    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    triggers = [row for row in rows if row["kind"] == "trigger"]
    assert {row["stage"] for row in triggers} == {"small"}
    assert [row["verdict"] for row in triggers][-2:] == ["agreed", "end"]
    assert triggers[-1]["loss"] <= 5.0
    assert "at or below 5 (2 of 2)" in triggers[-1]["reason"]
    end = triggers[-1]["step"]
    assert small.tokens == end * 64

    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, end + 13))
    last = steps[-1]
    costs = {row["stage"]: row["stage_flops"] / row["stage_tokens"] for row in rows if row["kind"] == "stage"}
    assert last["flops"] == pytest.approx(costs["small"] * small.tokens + costs["large"] * large.tokens)
    opening = next(row for row in rows if row["kind"] == "stage" and row["stage"] == "large")
    assert (opening["position"], opening["schedule_tokens"]) == (small.tokens, small.tokens + large.tokens)
    assert last["lr"] < 0.15 * 1e-2  # the decay ends where the shortened run ends
    assert (tmp_path / "run" / "final").is_dir()
    assert train_run(run, progress=False).already_finished


class KilledError(Exception):
    pass


@pytest.mark.parametrize("offset", [-3, 0, 2])
def test_a_killed_run_decides_the_same(
    offset: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the trigger fires, between the end of the stage and the growth, and after it."""
    until = {"trigger": "efficiency", "threshold": -0.9, "patience": 2, "min_tokens": 640, "check_tokens": 64}
    train_run(parse_run(stages(tiny, until, output=str(tmp_path / "whole"))), progress=False)
    rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    (end,) = [row["step"] for row in rows if row["kind"] == "trigger" and row["verdict"] == "end"]
    assert end < 40

    killed = parse_run(stages(tiny, until, output=str(tmp_path / "killed")))
    with monkeypatch.context() as patch:
        if offset == 0:
            patch.setattr(loop, "grow_state", _killing)
        else:
            patch.setattr(loop, "optimizer_step", _until(end + offset))
        with pytest.raises(KilledError):
            train_run(killed, progress=False)
    train_run(killed, progress=False)
    assert bits(tmp_path / "killed" / "final") == bits(tmp_path / "whole" / "final")
    assert rows_without_times(tmp_path / "killed") == rows_without_times(tmp_path / "whole")


def _killing(*_: Any, **__: Any) -> Any:
    raise KilledError


def _until(step: int) -> Callable[..., Any]:
    def steps(*arguments: Any, **options: Any) -> Any:
        if options["seed"][1] >= step:
            raise KilledError
        return optimizer_step(*arguments, **options)

    return steps


def test_a_log_too_sparse_for_the_trigger_is_warned_about(tiny: Tiny) -> None:
    data = stages(tiny, LOSS, schedule={"kind": "constant"})
    assert preflight(parse_run(data)).warnings == ()
    (warning,) = preflight(parse_run(data | {"log_every_steps": 5})).warnings
    assert "stage 'small' logs 8 rows, too few for its trigger" in warning


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ({"loss": -1}, r"stages\.0\.until\.loss"),
        ({"trigger": "eficiency"}, r"stages\.0\.until\.trigger"),
        ({"trigger": "efficiency", "patiense": 2}, r"unknown key stages\.0\.until\.patiense(.|\n)*patience"),
        ({"trigger": "efficiency", "threshold": 0.1}, r"stages\.0\.until\.threshold"),
        ({}, r"stages\.0\.until\.trigger is missing"),
    ],
)
def test_mistakes(until: dict[str, Any], words: str, tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_run(stages(tiny, until))

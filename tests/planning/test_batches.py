"""A plan over the batch: each stage at the critical batch of its end loss, by Kaplan's law."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from outgrow.engine import memory
from outgrow.errors import ConfigError
from outgrow.planning.cautions import plan_cautions
from outgrow.planning.laws import KAPLAN_BATCH, STAGED_TRAINING
from outgrow.planning.plan_file import parse_plan
from outgrow.planning.planned_run import planned_run
from outgrow.planning.stages import loss_along, replay_path, sensitivity
from outgrow.planning.summary import summary
from outgrow.planning.worked import WorkedPlan, work_out

SERIES: dict[str, Any] = {
    "target": {"loss": 2.69},
    "series": {"smallest": "20M", "largest": "2G", "count": 60},
    "law": {"kind": "kaplan", "batch": "critical"},
    "worth": 0.0,
}
MODELS: dict[str, Any] = {
    "target": {"size": "large", "loss": 3.4},
    "model": {"model_type": "llama", "vocab_size": 300, "tie_word_embeddings": True},
    "candidates": [
        {"name": name, "sizes": {"hidden_size": width, "intermediate_size": 2 * width, **SHAPE}}
        for name, width, SHAPE in (
            ("small", 512, {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8}),
            ("large", 1024, {"num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16}),
        )
    ],
    "law": {"kind": "kaplan", "batch": "critical"},
    "stages": 2,
    "worth": 0.0,
}


@pytest.fixture(scope="module")
def worked() -> WorkedPlan:
    return work_out(parse_plan(SERIES))


def test_compute_is_six_times_parameters_batch_and_steps(worked: WorkedPlan) -> None:
    """By the formulas: 2 S_min steps to a loss (arXiv 2001.08361, eq. 5.4), at the batch of the stage's end (eq. 1.4)."""
    path, before, spent = worked.path, np.inf, 0.0
    for place, loss in zip(path.sizes, path.losses, strict=True):
        number = worked.candidates[place].parameters
        steps = 2 * float(STAGED_TRAINING.min_steps(number, loss))
        if np.isfinite(before):
            steps -= 2 * float(STAGED_TRAINING.min_steps(number, before))
        spent += 6 * number * steps * 2.1e8 / loss ** (1 / 0.21)
        before = loss
    assert len(path.sizes) == 3
    assert path.total_flops == pytest.approx(spent, rel=1e-9)
    assert worked.saving(worked.chosen) == pytest.approx(
        0.321, abs=0.004
    )  # published, with free sizes; here 60
    assert 0 < worked.batch_saving() < worked.saving(worked.chosen)


def test_the_batches_own_saving_is_one_size_at_the_same_losses(worked: WorkedPlan) -> None:
    losses, number = worked.path.losses, worked.candidates[worked.baseline.sizes[0]].parameters
    steps = [2 * float(STAGED_TRAINING.min_steps(number, loss)) for loss in losses]
    tokens = np.diff([0.0, *steps]) * KAPLAN_BATCH.tokens(losses)
    assert worked.batch_saving() == pytest.approx(
        1 - 6 * number * tokens.sum() / worked.baseline.total_flops, rel=1e-9
    )


def test_an_end_costs_its_tokens(worked: WorkedPlan) -> None:
    """`end_loss` is the inverse of tokens = batch(loss) * (steps(loss) - start); without batches, of the curve alone."""
    problem = worked.problem
    start, tokens = problem.sizes[7].curve.tokens(4.0), np.geomspace(1e5, 1e12, 8)
    for begin in (0.0, start):
        loss = problem.end_loss(7, begin, tokens)
        spent = KAPLAN_BATCH.tokens(loss) * (problem.sizes[7].curve.tokens(loss) - begin)
        # A step count is a difference of two that may be as large as 1e6 of it.
        np.testing.assert_allclose(spent, tokens, rtol=1e-8)
    fixed = replace(problem, batch_tokens=None)
    assert float(fixed.end_loss(7, 3.0, 4.0)) == float(problem.sizes[7].curve.loss(7.0))


def test_a_schedule_replayed_is_itself(worked: WorkedPlan) -> None:
    path, problem = worked.path, worked.problem
    again = replay_path(problem, path.sizes, path.tokens[:-1], path.losses[-1])
    np.testing.assert_allclose(again.tokens, path.tokens, rtol=1e-7)
    np.testing.assert_allclose(again.losses, path.losses, rtol=1e-9)
    factors, costs = sensitivity(problem, path, 0)
    assert costs[np.argmin(np.abs(factors - 1))] == pytest.approx(1, abs=1e-6)
    assert (costs >= 1 - 1e-6).all()
    ends = np.cumsum(path.flops) * (1 - 1e-9)
    np.testing.assert_allclose(
        loss_along(problem, path.sizes, path.tokens[:-1], ends), path.losses, rtol=1e-6
    )


def test_tokens_and_budgets_as_targets(worked: WorkedPlan) -> None:
    spent = work_out(parse_plan({**SERIES, "target": {"flops": worked.path.total_flops}, "stages": 3}))
    assert spent.paths[2].losses[-1] == pytest.approx(2.69, rel=1e-3)  # sizes of 60, switches to the grid
    tokens = {"size": "large", "tokens": "2G"}
    one = work_out(parse_plan({**MODELS, "target": tokens, "stages": 1})).path
    assert one.tokens[0] == pytest.approx(2e9, rel=1e-9)


def test_the_run_has_the_batches_in_whole_steps() -> None:
    data = {"tokenizer": {"vocab_size": 300}, "sequence_length": 256}
    run = {"data": data, "batch": {"sequences": 64, "micro_batch": 16}, "device": "cpu"}
    worked = work_out(parse_plan({**MODELS, "run": run}))
    planned, _ = planned_run(worked)
    assert len(planned.stages) == 2
    told = summary(worked)["schedules"][-1]["stages"]
    for index, stage in enumerate(told):
        own = planned.at(index).batch.sequences
        assert own % 16 == 0
        assert abs(own * 256 - stage["batch_tokens"]) <= 8 * 256  # the nearest of the multiples of 16
        assert planned.stages[index].tokens % (own * 256) == 0
        assert planned.stages[index].tokens == pytest.approx(stage["tokens"], abs=own * 128 + 1)


@pytest.mark.parametrize("sequences", [None, 64])
def test_without_micro_batches_every_stage_is_near_its_batch(
    sequences: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multiples of a power of two, at most a thirty-second off: what a small machine does at once divides all of them."""
    data = {"tokenizer": {"vocab_size": 300}, "sequence_length": 256}
    run = {"data": data, "device": "cpu"} | ({} if sequences is None else {"batch": {"sequences": sequences}})
    worked = work_out(parse_plan({**MODELS, "run": run}))
    monkeypatch.setattr(memory, "device_memory", lambda device: 4e10)
    planned, notes = planned_run(worked)
    assert planned.batch.micro_batch is not None
    assert not any("a step has" in note for note in notes)
    for index, batch in enumerate(worked.batches(worked.path)):
        assert planned.at(index).tokens_per_step == pytest.approx(batch, rel=1 / 32)
        assert planned.at(index).batch.sequences % planned.batch.micro_batch == 0
    coarse = {**run, "batch": {"sequences": 1 << 14, "micro_batch": 1 << 14}}
    _, notes = planned_run(work_out(parse_plan({**MODELS, "run": coarse})))
    assert sum("a step has" in note for note in notes) == 2


def test_what_is_assumed_is_said(worked: WorkedPlan) -> None:
    said = " ".join(plan_cautions(worked))
    for words in (
        "2.1e+08 / loss^4.76 tokens",
        "is the batches' own",
        "nothing of the length",
        "learning rate",
    ):
        assert words in said
    own = {"kind": "kaplan", "batch": "critical", "critical_batch": {"scale_tokens": 1e7, "exponent": 0.25}}
    other = work_out(parse_plan({**SERIES, "law": own}))
    assert other.batches(other.path)[-1] == pytest.approx(1e7 / 2.69**4)
    json.dumps(summary(other), allow_nan=False)


def test_one_batch_or_each_its_own() -> None:
    with pytest.raises(ConfigError, match="leave batch_tokens out"):
        parse_plan({**SERIES, "law": {"kind": "kaplan", "batch": "critical", "batch_tokens": "5k"}})
    fixed = {
        "kind": "kaplan",
        "batch_tokens": "5k",
        "critical_batch": {"scale_tokens": "1M", "exponent": 0.2},
    }
    with pytest.raises(ConfigError, match="not asked for with batch_tokens"):
        parse_plan({**SERIES, "law": fixed})
    tiny = {"kind": "kaplan", "batch": "critical", "critical_batch": {"scale_tokens": 10, "exponent": 0.21}}
    plan = parse_plan({**SERIES, "law": tiny})
    with pytest.raises(ConfigError, match="less than one token"):
        work_out(plan)
    with pytest.raises(ConfigError, match="critical_batch"):
        parse_plan(
            {**SERIES, "law": {"kind": "kaplan", "critical_batch": {"scale_tokens": 0, "exponent": 1}}}
        )

"""Stages: what every model of a run will be, and the growth between two of them.

This is the only module of training that calls `outgrow.grow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.errors import OutgrowError
from outgrow.flops import Cost, model_cost
from outgrow.state import TrainingState
from outgrow.train.config import GrowConfig, RunConfig
from outgrow.train.engine import build_model, check_fits, model_config


@dataclass(frozen=True)
class StagePlan:
    """One stage before any work: its model, tokens and FLOPs."""

    name: str
    config: dict[str, Any]
    cost: Cost
    steps: int
    tokens: int
    flops: float
    probe_flops: float = 0.0
    """Of the operators that are tried before this stage."""


def grow_state(state: TrainingState, growth: GrowConfig) -> TrainingState:
    """The grown state, lazily: nothing is read until it is saved or loaded."""
    from outgrow.api import grow

    return grow(
        state,
        to=growth.to,
        width=growth.width,
        depth=growth.depth,
        moments=growth.moments,
        noise=growth.noise,
        seed=growth.seed,
    )


def candidates(growth: GrowConfig) -> tuple[GrowConfig, ...]:
    """The growths that a probe tries; without a probe, the growth itself."""
    if growth.probe is None:
        return (growth,)
    return tuple(
        growth.model_copy(update={"width": one.width or growth.width, "depth": one.depth or growth.depth})
        for one in growth.probe.candidates
    )


def _probe_steps(growth: GrowConfig | None) -> int:
    if growth is None or growth.probe is None:
        return 0
    return growth.probe.steps * len(growth.probe.candidates)


def plan_stages(run: RunConfig, *, vocab_size: int, separator: int | None) -> tuple[StagePlan, ...]:
    """Every stage's model, growths tried without weights: a target that cannot be is an error before any training."""
    state = _first_state(run, vocab_size, separator)
    plans = []
    for index, stage in enumerate(run.stages):
        if stage.grow is not None:
            try:
                grown = [grow_state(state, one) for one in candidates(stage.grow)]
            except OutgrowError as error:
                raise type(error)(f"stages.{index}.grow: {error}") from None
            state = grown[0]  # all candidates have the same sizes
        check_fits(state.config, vocab_size=vocab_size, sequence_length=run.data.sequence_length)
        cost = model_cost(state.config)
        tokens = run.stage_steps(index) * run.tokens_per_step
        flops = float(tokens * cost.training(run.data.sequence_length))
        plans.append(
            StagePlan(
                name=stage.name,
                config=state.config,
                cost=cost,
                steps=run.stage_steps(index),
                tokens=tokens,
                flops=flops,
                probe_flops=flops / run.stage_steps(index) * _probe_steps(stage.grow),
            )
        )
    return tuple(plans)


def _first_state(run: RunConfig, vocab_size: int, separator: int | None) -> TrainingState:
    first = run.stages[0]
    if first.start is not None:
        return TrainingState.from_pretrained(Path(first.start).expanduser())
    assert run.model is not None, "RunConfig asks for a model or a checkpoint"
    content = model_config(
        run.model, vocab_size=vocab_size, sequence_length=run.data.sequence_length, separator=separator
    )
    return TrainingState.from_model(build_model(content, "meta"))


def flops_before(plans: Sequence[StagePlan], index: int) -> float:
    """FLOPs of all stages before this one, and of all probes until it begins."""
    return sum(plan.flops for plan in plans[:index]) + sum(plan.probe_flops for plan in plans[: index + 1])

"""Stages: what every model of a run will be, and the growth between two of them.

This is the only module of training that calls `outgrow.grow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.architectures import resolve
from outgrow.errors import OutgrowError
from outgrow.flops import Cost, model_cost
from outgrow.plan import GrowthPlan
from outgrow.state import TrainingState
from outgrow.store.grown import GrownView
from outgrow.train.config import GrowConfig, RunConfig
from outgrow.train.engine import build_model, check_fits, model_config
from outgrow.train.treatment import check_treatment


@dataclass(frozen=True)
class StagePlan:
    """One stage before any work: its model, tokens and FLOPs."""

    name: str
    config: dict[str, Any]
    cost: Cost
    steps: int
    tokens: int
    flops: float
    growth: GrowthPlan | None = None
    """How this stage's model grows from the one before."""


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


def plan_stages(run: RunConfig, *, vocab_size: int, separator: int | None) -> tuple[StagePlan, ...]:
    """Every stage's model, growths tried without weights: a target that cannot be is an error before any training."""
    state = _first_state(run, vocab_size, separator)
    plans = []
    for index, stage in enumerate(run.stages):
        growth = None
        if stage.grow is not None:
            try:
                state = grow_state(state, stage.grow)
                growth = state.source.plan if isinstance(state.source, GrownView) else None
            except OutgrowError as error:
                raise type(error)(f"stages.{index}.grow: {error}") from None
        try:
            check_treatment(stage, growth, tuple(resolve(state.config).parameters))
        except OutgrowError as error:
            raise type(error)(f"stages.{index}: {error}") from None
        check_fits(state.config, vocab_size=vocab_size, sequence_length=run.data.sequence_length)
        cost = model_cost(state.config)
        tokens = run.stage_steps(index) * run.tokens_per_step
        flops = float(tokens * cost.training(run.data.sequence_length))
        plans.append(StagePlan(stage.name, state.config, cost, run.stage_steps(index), tokens, flops, growth))
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
    """FLOPs of all stages before this one."""
    return sum(plan.flops for plan in plans[:index])

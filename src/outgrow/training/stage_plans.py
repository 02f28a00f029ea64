"""Stages: what every model of a run will be, and the growth between two of them.

This is the only module of training that calls `outgrow.grow`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from outgrow.cost.flops import Cost, model_cost, training_flops
from outgrow.cost.frozen_flops import frozen_training_flops
from outgrow.data.needs import Needs, model_config
from outgrow.engine.optimizers import check_start
from outgrow.engine.progress import bytes_progress
from outgrow.engine.step import build_for_training
from outgrow.engine.treatment import check_treatment
from outgrow.errors import ConfigError, OutgrowError
from outgrow.files.atomic import check_apart
from outgrow.files.reading import expanded
from outgrow.growth.plan import GrowthPlan
from outgrow.learning.in_run import begun_state, check_operator, learning_flops
from outgrow.models.architecture import (
    load_architecture,
    longest_sequence,
    own_config,
    resolve,
    with_positions,
)
from outgrow.run.after_growth import steps_within
from outgrow.run.config import DataConfig, RunConfig, StageConfig
from outgrow.run.distil import DistilConfig
from outgrow.run.grow_config import GrowConfig
from outgrow.run.optimizer_config import MuonConfig
from outgrow.run.reentry import EqualLossPosition, Factors, Ratio, entry_peak, matched_ratio
from outgrow.run.until import Threshold, UntilEfficiency, threshold
from outgrow.state.grown_view import GrownView
from outgrow.state.training_state import TrainingState


@dataclass(frozen=True)
class StagePlan:
    """One stage before any work: its model, its most tokens and FLOPs, and its learning rate's peak and position."""

    name: str
    config: dict[str, Any]
    cost: Cost
    steps: int
    tokens: int
    flops: float
    peak: float
    position: Literal["keep"] | int | Ratio | EqualLossPosition
    """As `Reentry.position`, `loss_matched` worked out."""
    threshold: Threshold | None
    """The slope that an efficiency trigger waits for."""
    growth: GrowthPlan | None
    """How this stage's model grows from the one before; with a probe, the first candidate's plan."""
    probe_flops: float = 0.0
    """Of the operators that are tried, or the one that is fitted, before this stage."""
    cheap_steps: int = 0
    """Steps at its begin in which a part of the model is frozen,"""
    cheap_flops: float = 0.0
    """and the FLOPs of each of them."""
    taught_steps: int = 0
    """Steps at its begin in which a teacher is asked,"""
    taught_flops: float = 0.0
    """and the FLOPs of its forward pass in each of them."""

    def flops_after(self, steps: int) -> float:
        """FLOPs of the stage's first `steps` steps."""
        cheap, taught = min(steps, self.cheap_steps), min(steps, self.taught_steps) * self.taught_flops
        return taught + cheap * self.cheap_flops + (steps - cheap) * self.plain_flops

    @property
    def plain_flops(self) -> float:
        """FLOPs of a step in which nothing is frozen and nobody teaches; of any step where the stage has no such."""
        plain = self.steps - self.cheap_steps
        own = self.flops - self.taught_steps * self.taught_flops
        return (own - self.cheap_steps * self.cheap_flops) / plain if plain else self.cheap_flops


def grow_state(state: TrainingState, growth: GrowConfig) -> TrainingState:
    """The grown state, lazily: nothing is read until it is saved or loaded; of a learned growth, as its fit begins."""
    from outgrow.state.growing import grow_by

    if growth.learn is not None:
        return begun_state(state, growth)
    folder = None if growth.operator is None else expanded(growth.operator)
    return grow_by(state, growth.to, growth.options, operator=folder, as_=growth.as_)


def candidates(growth: GrowConfig) -> tuple[GrowConfig, ...]:
    """The growths that a probe tries; without a probe, the growth itself."""
    if growth.probe is None:
        return (growth,)
    return tuple(
        growth.model_copy(update={"width": one.width or growth.width, "depth": one.depth or growth.depth})
        for one in growth.probe.candidates
    )


def plan_stages(run: RunConfig, needs: Needs, start: TrainingState | None = None) -> tuple[StagePlan, ...]:
    """Every stage's model, growths tried without weights: a target that cannot be is an error before any training.

    `start` is the checkpoint that the run starts from (`open_start`), if it starts from one.
    """
    state = _first_state(run, needs, start)
    peak = run.optimizer.learning_rate
    plans: list[StagePlan] = []
    for index, stage in enumerate(run.stages):
        small, factors = state.config, None
        state, growth = _grown(state, stage.grow, index)
        if stage.distil is not None:
            state = _new(stage.distil, small, needs, index)
        frozen = _frozen(stage, growth, state.config, index)
        needs.check(state.config)
        _check_length(run, state.config, index)
        if growth is not None:
            _check_source(run, small, needs, index)
        if stage.grow is not None:
            factors = growth_factors(small, state.config, run.at(max(0, index - 1)).data, run.at(index).data)
        position = stage.reentry.position
        if position == "loss_matched":
            assert factors is not None, "RunConfig asks for a growth"
            position = matched_ratio(factors, f"stages.{index}.reentry.position")
        peak = entry_peak(stage.reentry.peak, peak, model_cost(small).non_embedding, factors)
        if plans:
            plans[-1] = replace(plans[-1], threshold=_threshold(run, index - 1, factors))
        flops, cheap_steps, cheap_flops = _flops(run, index, state.config, frozen)
        taught_steps, taught_flops = _teaching(run, index, small)
        plans.append(
            StagePlan(
                name=stage.name,
                config=state.config,
                cost=model_cost(state.config),
                steps=run.stage_steps(index),
                tokens=run.stage_tokens(index),
                flops=flops + taught_steps * taught_flops,
                peak=peak,
                position=position,
                threshold=None,
                growth=growth,
                probe_flops=_growth_flops(run.at(index), stage.grow, small, state.config),
                cheap_steps=cheap_steps,
                cheap_flops=cheap_flops,
                taught_steps=taught_steps,
                taught_flops=taught_flops,
            )
        )
    plans[-1] = replace(plans[-1], threshold=_threshold(run, len(plans) - 1, None))
    return tuple(plans)


def _check_length(run: RunConfig, config: Mapping[str, Any], index: int) -> None:
    """A stage's own length fits the positions of its model."""
    length, positions = run.at(index).data.sequence_length, longest_sequence(config)
    if run.stages[index].data is not None and positions is not None and positions < length:
        new = index == 0 and run.model is not None
        own = run.stages[index].distil is not None
        where = "model" if new else f"stages.{index}.{'distil.into' if own else 'grow.to'}"
        raise ConfigError(
            f"stages.{index}.data.sequence_length is longer than the model's positions",
            got=length,
            expected=f"at most {positions}",
            fix=f"shorten it, or {'give' if new else 'grow'} the positions: {where}.{with_positions(config, length)}",
        )


def _check_source(run: RunConfig, small: Mapping[str, Any], needs: Needs, index: int) -> None:
    """What a growth asks of its source beyond its sizes: a loss on the run's data before it, and groups that new tensors join."""
    try:
        needs.check(small)
    except OutgrowError as error:  # only a checkpoint: other sources were models of this run
        raise ConfigError(
            f"stages.{index}.from: the checkpoint cannot take the data before it grows: {error}",
            fix="grow it by `outgrow grow` first, and begin with the result",
        ) from None
    if not resolve(small).layers and isinstance(run.optimizer, MuonConfig):
        raise ConfigError(
            f"stages.{index}.grow: a model without layers has no matrices for Muon, so its state has no group for new ones",
            fix="begin with one layer, or with optimizer.name: adamw",
        )


def _grown(
    state: TrainingState, growth: GrowConfig | None, index: int
) -> tuple[TrainingState, GrowthPlan | None]:
    """The state that a stage starts from, and how it was grown."""
    if growth is None:
        return state, None
    try:
        check_operator(growth, index)
        grown = [grow_state(state, one) for one in candidates(growth)]
    except OutgrowError as error:
        raise type(error)(f"stages.{index}.grow: {error}") from None
    first = grown[0]  # all candidates have the same sizes
    return first, first.source.plan if isinstance(first.source, GrownView) else None


def _new(distil: DistilConfig, teacher: Mapping[str, Any], needs: Needs, index: int) -> TrainingState:
    """A new model that can learn from the scores of the one before: of its kind, with as many classes or tokens."""
    where = f"stages.{index}.distil.into"
    try:
        config = model_config(distil.into, needs)
        needs.check(teacher)  # only a checkpoint may not: other teachers were models of this run
    except OutgrowError as error:
        raise type(error)(f"{where}: {error}") from None
    own, theirs = (_scores(one) for one in (config, teacher))
    if own != theirs:
        raise ConfigError(
            f"{where}: the model cannot learn from the scores of the one before it",
            got=f"{config['model_type']}: {own[0]}, {own[1]:,} classes",
            expected=f"as {teacher['model_type']}: {theirs[0]}, {theirs[1]:,} classes",
        )
    return TrainingState.from_model(build_for_training(config, "meta"))


def _scores(config: Mapping[str, Any]) -> tuple[str, int]:
    """What a model scores, and among how many classes or tokens."""
    kind = load_architecture(str(config["model_type"])).objective
    return kind, resolve(config).sizes["labels"] if kind == "image" else int(own_config(config)["vocab_size"])


def _teaching(run: RunConfig, index: int, teacher: Mapping[str, Any]) -> tuple[int, float]:
    """Steps of a stage in which the model before is asked, and the FLOPs of its forward pass: a third of its step."""
    distil, own = run.stages[index].distil, run.at(index)
    if distil is None:
        return 0, 0.0
    size = own.tokens_per_step
    steps = steps_within(distil.tokens, size, run.stage_steps(index))
    flops = training_flops(teacher, own.data.sequence_length, own.data.mask_share)[1]
    return steps, size * flops / 3


def _frozen(
    stage: StageConfig, growth: GrowthPlan | None, config: Mapping[str, Any], index: int
) -> frozenset[str]:
    """Tensors that the stage freezes."""
    try:
        return check_treatment(stage, growth, tuple(resolve(config).parameters))
    except OutgrowError as error:
        raise type(error)(f"stages.{index}: {error}") from None


def _flops(
    run: RunConfig, index: int, config: Mapping[str, Any], frozen: frozenset[str]
) -> tuple[float, int, float]:
    """Of a whole stage; its steps with frozen tensors, and what each of these costs."""
    stage, steps, own = run.stages[index], run.stage_steps(index), run.at(index)
    length, share, size = own.data.sequence_length, own.data.mask_share, own.tokens_per_step
    full = float(size * training_flops(config, length, share)[1])
    cheap = float(size * frozen_training_flops(config, length, frozen, share))
    cheap_steps = 0 if stage.freeze is None else stage.freeze.steps(size, steps)
    return full * steps + cheap_steps * (cheap - full), cheap_steps, cheap


def _growth_flops(
    run: RunConfig, growth: GrowConfig | None, small: Mapping[str, Any], large: Mapping[str, Any]
) -> float:
    """Of the operators that are tried, or the one that is fitted, before a stage."""
    if growth is None:
        return 0.0
    tried = 0 if growth.probe is None else growth.probe.steps * len(growth.probe.candidates)
    step = float(
        run.tokens_per_step * training_flops(large, run.data.sequence_length, run.data.mask_share)[1]
    )
    return tried * step + learning_flops(small, growth, run)


def growth_factors(
    small: Mapping[str, Any], large: Mapping[str, Any], before: DataConfig, after: DataConfig
) -> Factors:
    """By how much a growth grows, from the two configs and what each is trained on: a longer sequence costs more FLOPs per token."""
    models, costs = [resolve(one) for one in (small, large)], [model_cost(one) for one in (small, large)]
    flops = [
        training_flops(one, data.sequence_length, data.mask_share)[1]
        for one, data in ((small, before), (large, after))
    ]
    stream = next(name for name, axis in models[0].axes.items() if axis.is_stream)
    width, layers = ([model.sizes[stream] for model in models], [model.layers for model in models])
    return Factors(
        width=width[1] / width[0],
        layers=_times(layers),
        parameters=_times([cost.non_embedding for cost in costs]),
        flops=flops[1] / flops[0],
    )


def _times(sizes: Sequence[int]) -> float:
    """How many times the first the second is; a model may begin without layers (arXiv 2511.04981)."""
    small, large = sizes
    return large / small if small else math.inf


def _threshold(run: RunConfig, index: int, factors: Factors | None) -> Threshold | None:
    """What a stage's trigger waits for; `factors` of the growth after it."""
    until = run.stages[index].until
    return threshold(until, factors, f"stages.{index}.until") if isinstance(until, UntilEfficiency) else None


def open_start(run: RunConfig, *, headers_only: bool = False, show: bool = False) -> TrainingState | None:
    """The checkpoint that a run starts from, every byte checked unless `headers_only`; None where it starts from fresh
    weights. `show`: with a bar."""
    first = run.stages[0]
    if first.start is None:
        return None
    folder = expanded(first.start)
    check_apart(expanded(run.output), [folder])
    with bytes_progress("reading", show=show) as progress:
        state = TrainingState.from_pretrained(folder, headers_only=headers_only, progress=progress)
    check_start(state, run.optimizer)
    return state


def _first_state(run: RunConfig, needs: Needs, start: TrainingState | None) -> TrainingState:
    if start is not None:
        return start
    assert run.model is not None, "RunConfig asks for a model or a checkpoint"
    return TrainingState.from_model(build_for_training(model_config(run.model, needs), "meta"))

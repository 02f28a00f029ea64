"""What a run would need, without doing it: parameters, FLOPs, memory, disk, time.

memory = weights, gradients, what the optimizer keeps, and activations of one micro-batch (see `memory.py`)
time   = FLOPs of the run / FLOPs per second of a short measured probe of the first stage's model
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from outgrow.cost.flops import training_flops
from outgrow.cost.memory import training_memory
from outgrow.data.objectives import objective_of
from outgrow.engine.optimizers import build_optimizer, state_numbers
from outgrow.engine.step import Device, build_model, choose_device, optimizer_step
from outgrow.run.config import RunConfig
from outgrow.training.preflight import preflight
from outgrow.training.rates import StageRates, rate_points, stage_rates
from outgrow.training.stage_plans import StagePlan

_LARGEST_PROBE = 300_000_000  # parameters: a larger model would make a dry run slow and hungry


@dataclass(frozen=True)
class DryStage:
    """One stage: sizes in bytes, time in seconds (None where it was not measured)."""

    name: str
    parameters: int
    tokens: int
    steps: int
    flops: float
    memory_bytes: int
    checkpoint_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class DryRun:
    """The whole run. `disk_bytes` is the most that the output folder holds."""

    stages: tuple[DryStage, ...]
    flops: float
    memory_bytes: int
    disk_bytes: int
    seconds: float | None
    device: str
    corpus: str
    rates: tuple[StageRates, ...]
    rate_points: tuple[tuple[tuple[int, float], ...], ...]
    """For each stage, (tokens of the run, learning rate)."""
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def dry_run(run: RunConfig) -> DryRun:
    """Check a run as `train` would and say what it needs; writes nothing.

    >>> dry_run(load_run("examples/quickstart.yaml")).stages[1].parameters  # doctest: +SKIP
    2828736
    """
    found = preflight(run)
    device = choose_device(run)
    rate = _measured_rate(run, found.stages[0], device)
    stages = tuple(_stage(run, plan, device, rate) for plan in found.stages)
    flops = sum(stage.flops for stage in stages)
    return DryRun(
        stages=stages,
        flops=flops,
        memory_bytes=max(stage.memory_bytes for stage in stages),
        disk_bytes=_disk(run, stages),
        seconds=flops / rate if rate else None,
        device=device.describe(),
        corpus=found.corpus,
        rates=stage_rates(run, found.stages),
        rate_points=rate_points(run, found.stages),
        warnings=found.warnings,
    )


def _stage(run: RunConfig, plan: StagePlan, device: Device, rate: float | None) -> DryStage:
    micro_batch = run.batch.at_once
    memory = training_memory(
        plan.config,
        sequences=micro_batch,
        sequence_length=plan.cost.length or run.data.sequence_length,
        itemsize=2 if device.bf16 else 4,
        mask_share=run.data.mask_share,
    )
    state = 4 * state_numbers(plan.config, run.optimizer)
    return DryStage(
        name=plan.name,
        parameters=plan.cost.parameters,
        tokens=plan.tokens,
        steps=plan.steps,
        flops=plan.flops + plan.probe_flops,
        memory_bytes=replace(memory, moments=state).total,
        checkpoint_bytes=4 * plan.cost.parameters + state,
        seconds=(plan.flops + plan.probe_flops) / rate if rate else None,
    )


def _disk(run: RunConfig, stages: tuple[DryStage, ...]) -> int:
    """Every stage keeps its newest checkpoints (the end is one of them) and the state it grew to; one more while writing."""
    total = 0
    for stage, planned in zip(stages, run.stages, strict=True):
        inside = stage.steps // run.checkpoint.every_steps if run.checkpoint.every_steps else 0
        kept = min(run.checkpoint.keep, inside + 1) + (planned.grow is not None)
        total += kept * stage.checkpoint_bytes
    return total + max(stage.checkpoint_bytes for stage in stages)


def _measured_rate(run: RunConfig, plan: StagePlan, device: Device) -> float | None:
    """FLOPs per second of the first stage's model on one micro-batch: the third step of three."""
    if plan.cost.parameters > _LARGEST_PROBE:
        return None
    micro_batch = run.batch.at_once
    model = device.place(build_model(plan.config))
    optimizer = build_optimizer(model, run.optimizer)
    batch = objective_of(plan.config).example(
        plan.config, micro_batch, run.data.sequence_length, run.data.mask_share
    )
    seconds = 0.0
    for step in range(3):
        began = time.monotonic()
        optimizer_step(
            model,
            optimizer,
            batch,
            learning_rate=1e-6,
            micro_batch=micro_batch,
            clip=run.optimizer.gradient_clip,
            device=device,
            seed=(0, step),
        )
        seconds = time.monotonic() - began
    return (
        training_flops(plan.config, run.data.sequence_length, run.data.mask_share)[1]
        * batch[1].numel()
        / seconds
    )

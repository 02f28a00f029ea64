"""What a run would need, without doing it: parameters, FLOPs, memory, disk, time.

memory = weights, gradients, what the optimizer keeps, and activations of one micro-batch (see `cost/memory.py`)
         of a rank: 1 / ranks of the first three, and what is gathered at once: two layers and what is outside of all
time   = FLOPs of the run / FLOPs per second of a short measured probe of the first stage's model, / ranks at best
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from outgrow.cost.flops import training_flops
from outgrow.cost.memory import Memory, training_memory
from outgrow.data.objectives import objective_of
from outgrow.engine.optimizers import build_optimizer, state_numbers
from outgrow.engine.step import Device, build_for_training, choose_device, optimizer_step
from outgrow.errors import ConfigError
from outgrow.models.architecture import resolve
from outgrow.parallel.ranks import Ranks
from outgrow.run.config import RunConfig
from outgrow.training.preflight import check_ranks, preflight
from outgrow.training.rates import StageRates, rate_points, stage_rates
from outgrow.training.stage_plans import StagePlan

_LARGEST_PROBE = 300_000_000  # parameters: a larger model would make a dry run slow
_SHARE_FOR_PROBE = 0.25
"""Of free memory, which a probe may take: an estimate, and others work here too."""


@dataclass(frozen=True)
class DryStage:
    """One stage: sizes in bytes, time in seconds (None where it was not measured)."""

    name: str
    parameters: int
    tokens: int
    steps: int
    flops: float
    memory_bytes: int
    """Of one rank."""
    checkpoint_bytes: int
    rank_bytes: int
    """What one rank writes of a checkpoint, and reads to resume."""
    seconds: float | None


@dataclass(frozen=True)
class DryRun:
    """The whole run. `disk_bytes` is the most that the output folder holds."""

    ranks: int

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


def dry_run(run: RunConfig, world: int = 1) -> DryRun:
    """Check a run as `train_run` would on `world` ranks and say what it needs; writes nothing.

    Raises ConfigError also where a rank of several needs more memory than it has here.

    >>> dry_run(load_run("examples/quickstart.yaml")).stages[1].parameters  # doctest: +SKIP
    2828736
    """
    check_ranks(run, Ranks(0, world))
    found = preflight(run, headers_only=True)
    device = choose_device(run)
    rate = _measured_rate(run.at(0), found.stages[0], device)
    best = rate * world if rate else None
    stages = tuple(
        _stage(run.at(index), plan, device, best, world) for index, plan in enumerate(found.stages)
    )
    flops = sum(stage.flops for stage in stages)
    needed = max(stage.memory_bytes for stage in stages)
    if world > 1:
        _check_memory(needed, device, world)
    return DryRun(
        ranks=world,
        stages=stages,
        flops=flops,
        memory_bytes=needed,
        disk_bytes=_disk(run, stages),
        seconds=flops / best if best else None,
        device=device.describe(),
        corpus=found.corpus,
        rates=stage_rates(run, found.stages),
        rate_points=rate_points(run, found.stages),
        warnings=found.warnings,
    )


def _stage(run: RunConfig, plan: StagePlan, device: Device, rate: float | None, world: int) -> DryStage:
    memory = _memory(run, plan, device, run.batch.at_once)
    state = memory.moments
    if world > 1:
        memory = _cut(memory, run, plan, world, 2 if device.bf16 else 4)
    checkpoint = 4 * plan.cost.parameters + state
    return DryStage(
        name=plan.name,
        parameters=plan.cost.parameters,
        tokens=plan.tokens,
        steps=plan.steps,
        flops=plan.flops + plan.probe_flops,
        memory_bytes=memory.total,
        checkpoint_bytes=checkpoint,
        rank_bytes=-(-checkpoint // world),
        seconds=(plan.flops + plan.probe_flops) / rate if rate else None,
    )


def _memory(run: RunConfig, plan: StagePlan, device: Device, sequences: int) -> Memory:
    """Of one process that trains on so many sequences at once."""
    memory = training_memory(
        plan.config,
        sequences=sequences,
        sequence_length=plan.cost.length or run.data.sequence_length,
        itemsize=2 if device.bf16 else 4,
        mask_share=run.data.mask_share,
    )
    return replace(memory, moments=4 * state_numbers(plan.config, run.optimizer))


def _free(device: Device) -> int:
    """Bytes that a process can have now."""
    if device.name == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _cut(memory: Memory, run: RunConfig, plan: StagePlan, world: int, itemsize: int) -> Memory:
    """One rank's memory: its shards, and what is gathered at once (all of it where layers stay gathered)."""
    shards = run.parallel.shard or world // run.parallel.replicate
    model = resolve(plan.config)
    sizes: dict[Any, int] = {}
    for name, one in model.parameters.items():
        count = torch.Size(model.shape(name)).numel()
        sizes[one.layer] = sizes.get(one.layer, 0) + count
    outside = sizes.pop(None, 0)
    layers = max(sizes.values(), default=0)
    at_once = 2 * layers if run.parallel.reshard_after_forward else sum(sizes.values())
    own = 4 * plan.cost.parameters
    return replace(
        memory,
        weights=-(-own // shards) + itemsize * (outside + at_once),
        gradients=-(-own // shards) + itemsize * (outside + layers),
        moments=-(-memory.moments // shards),
    )


def _check_memory(needed: int, device: Device, world: int) -> None:
    """Raise ConfigError where a rank's memory does not fit; ranks of one host share the memory of its processors."""
    if device.name == "cuda":
        available = torch.cuda.get_device_properties(0).total_memory
    else:
        here = min(world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // here
    if needed > available:
        raise ConfigError(
            f"a rank of {world} needs more memory than it has",
            got=f"{needed / 1e9:.1f} GB",
            expected=f"at most {available / 1e9:.1f} GB",
            fix="use more ranks, a smaller batch.micro_batch, or parallel.activation_checkpointing",
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
    """FLOPs per second of the first stage's model: the third of three steps on as many sequences as fit well.

    None where the model is large, or even one sequence would take more than a quarter of what is free.
    """
    if plan.cost.parameters > _LARGEST_PROBE:
        return None
    micro_batch = run.batch.at_once
    while micro_batch and _memory(run, plan, device, micro_batch).total > _SHARE_FOR_PROBE * _free(device):
        micro_batch //= 2
    if not micro_batch:
        return None
    model = device.place(build_for_training(plan.config))
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

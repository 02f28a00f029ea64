"""What a run would need, without doing it: parameters, FLOPs, memory, disk, time.

memory = that of a step (see `engine/memory.py`)
time   = FLOPs of the run / FLOPs per second of a few forward passes of the first stage's model, / ranks at best
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from outgrow.cost.flops import training_flops
from outgrow.data.objectives import objective_of
from outgrow.engine.memory import device_memory, free_memory, step_memory
from outgrow.engine.optimizers import state_numbers
from outgrow.engine.step import Device, build_for_training, choose_device, evaluation_loss
from outgrow.errors import ConfigError
from outgrow.files.atomic import check_space
from outgrow.files.reading import expanded
from outgrow.run.config import RunConfig
from outgrow.training.preflight import check_ranks, check_slices, preflight
from outgrow.training.rates import StageRates, rate_points, stage_rates
from outgrow.training.stage_plans import StagePlan

_LARGEST_PROBE = 300_000_000  # parameters: a larger model would make a dry run slow
_SHARE_FOR_PROBE = 0.25
"""Of free memory, which a probe may take: an estimate, and others work here too."""
_PROBED_SEQUENCES = 4
_PASSES = 3
"""A training step is a forward pass and a backward pass of twice its FLOPs."""


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

    Raises ConfigError also where a rank of several needs more memory than it has here, and CheckpointError where the disk of
    the output is too full.

    >>> dry_run(load_run("examples/quickstart.yaml")).stages[1].parameters  # doctest: +SKIP
    2828736
    """
    check_ranks(run, world)
    found = preflight(run, headers_only=True)
    check_slices(run, found.stages, found.start, world)
    device = choose_device(run)
    rate = _measured_rate(run.at(0), found.stages[0], device.at(run.at(0)))
    best = rate * world if rate else None
    stages = tuple(
        _stage(own, plan, device.at(own), best, world)
        for own, plan in ((run.at(index), plan) for index, plan in enumerate(found.stages))
    )
    flops = sum(stage.flops for stage in stages)
    needed = max(stage.memory_bytes for stage in stages)
    if world > 1:
        _check_memory(needed, device, world)
    disk, output = _disk(run, stages), expanded(run.output)
    check_space(output, disk - _bytes_in(output))
    return DryRun(
        ranks=world,
        stages=stages,
        flops=flops,
        memory_bytes=needed,
        disk_bytes=disk,
        seconds=flops / best if best else None,
        device=device.describe(),
        corpus=found.corpus,
        rates=stage_rates(run, found.stages),
        rate_points=rate_points(run, found.stages),
        warnings=found.warnings,
    )


def _stage(run: RunConfig, plan: StagePlan, device: Device, rate: float | None, world: int) -> DryStage:
    memory = step_memory(run, plan.config, device, run.batch.at_once, world)
    checkpoint = 4 * (plan.cost.parameters + state_numbers(plan.config, run.optimizer))
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


def _check_memory(needed: int, device: Device, world: int) -> None:
    """Raise ConfigError where a rank's memory does not fit."""
    available = device_memory(device, world)
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


def _bytes_in(folder: Path) -> int:
    """What a run that is continued has written already, and writes over."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # the run may be at work
            total += path.stat().st_size if path.is_file() else 0
    return total


@torch.no_grad()
def _measured_rate(run: RunConfig, plan: StagePlan, device: Device) -> float | None:
    """FLOPs per second of the first stage's model: the fastest of three forward passes over a few sequences.

    A training batch is never run: nothing is kept for a backward pass, and there are no gradients and no moments.
    None where the model is large, or its weights and a pass would take more than a quarter of what is free.
    """
    if plan.cost.parameters > _LARGEST_PROBE:
        return None
    sequences = min(_PROBED_SEQUENCES, run.batch.at_once)
    needed = step_memory(run, plan.config, device, sequences)
    if needed.weights + needed.activations + needed.logits > _SHARE_FOR_PROBE * free_memory(device):
        return None
    model = device.place(build_for_training(plan.config))
    length, share = run.data.sequence_length, run.data.mask_share
    batch = objective_of(plan.config).example(plan.config, sequences, length, share)
    best = math.inf
    for _ in range(3):
        began = time.monotonic()
        evaluation_loss(model, [batch], device)
        best = min(best, time.monotonic() - began)
    return training_flops(plan.config, length, share)[1] / _PASSES * batch[1].numel() / best

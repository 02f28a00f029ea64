"""What a run would need, without doing it: parameters, FLOPs, memory, disk, time.

memory = 16 bytes per parameter (weight, gradient, two moments) + activations of one micro-batch
time   = FLOPs of the run / FLOPs per second of a short measured probe of the first stage's model
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from outgrow.train.config import RunConfig
from outgrow.train.engine import Device, build_model, build_optimizer, choose_device, optimizer_step
from outgrow.train.preflight import preflight
from outgrow.train.stages import StagePlan

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
    )


def _stage(run: RunConfig, plan: StagePlan, device: Device, rate: float | None) -> DryStage:
    micro_batch = run.batch.micro_batch or run.batch.sequences
    activations = activation_bytes(
        plan.config, micro_batch, run.data.sequence_length, 2 if device.bf16 else 4
    )
    return DryStage(
        name=plan.name,
        parameters=plan.cost.parameters,
        tokens=plan.tokens,
        steps=plan.steps,
        flops=plan.flops + plan.probe_flops,
        memory_bytes=16 * plan.cost.parameters + activations,
        checkpoint_bytes=12 * plan.cost.parameters,
        seconds=(plan.flops + plan.probe_flops) / rate if rate else None,
    )


def activation_bytes(config: Mapping[str, Any], sequences: int, length: int, itemsize: int) -> int:
    """An estimate of what the backward pass keeps: about 17 + 3 mlp/embed vectors per token and layer, and the logits.

    Without the scores of attention, which the fused kernel computes again (arXiv 2205.05198 counts the rest).
    """
    embed = config.get("hidden_size", config.get("n_embd", 0))
    layers = config.get("num_hidden_layers", config.get("n_layer", 0))
    mlp = config.get("intermediate_size") or config.get("n_inner") or 4 * embed
    tokens = sequences * length
    logits = tokens * config["vocab_size"] * (itemsize + 8)
    return int(tokens * layers * (17 * embed + 3 * mlp) * itemsize + logits)


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
    micro_batch = run.batch.micro_batch or run.batch.sequences
    model = build_model(plan.config).to(device.name)
    optimizer = build_optimizer(model, run.optimizer)
    tokens = torch.randint(plan.config["vocab_size"], (micro_batch, run.data.sequence_length))
    seconds = 0.0
    for step in range(3):
        began = time.monotonic()
        optimizer_step(
            model,
            optimizer,
            (tokens, tokens),
            learning_rate=1e-6,
            micro_batch=micro_batch,
            clip=run.optimizer.gradient_clip,
            device=device,
            seed=(0, step),
        )
        seconds = time.monotonic() - began
    return tokens.numel() * plan.cost.training(run.data.sequence_length) / seconds

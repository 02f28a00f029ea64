"""What a training step of a run needs of its device, what the device has, and how many sequences at once fit.

one process    weights, gradients, what the optimizer keeps, and activations of one micro-batch   (cost/memory.py)
a rank         1 / ranks of the first three, and what is gathered at once: two layers and what is outside of all;
               under parallel.tensor its slices of them, and activations whole, which is an upper bound
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch

from outgrow.cost.flops import model_cost
from outgrow.cost.memory import Memory, training_memory
from outgrow.engine.optimizers import state_numbers
from outgrow.engine.step import Device
from outgrow.models.architecture import resolve
from outgrow.parallel.tensor import slice_numbers
from outgrow.run.config import RunConfig

_ROOM = 0.8
"""Of a device's memory, what a plan fills: estimates are held to 20 % (tests/battery/test_memory.py)."""


def step_memory(
    run: RunConfig, config: Mapping[str, Any], device: Device, sequences: int, world: int = 1
) -> Memory:
    """Of one rank of `world` that trains a model on so many sequences at once; `run` is that of the stage (`RunConfig.at`)."""
    memory = training_memory(
        config,
        sequences=sequences,
        sequence_length=model_cost(config).length or run.data.sequence_length,
        itemsize=2 if device.bf16 else 4,
        mask_share=run.data.mask_share,
    )
    memory = replace(memory, moments=4 * state_numbers(config, run.optimizer))
    return memory if world == 1 else _cut(memory, run, config, world, 2 if device.bf16 else 4)


def _cut(memory: Memory, run: RunConfig, config: Mapping[str, Any], world: int, itemsize: int) -> Memory:
    """One rank's memory: its shards, and what is gathered at once (all of it where layers stay gathered)."""
    mesh, model = run.parallel.mesh(world), resolve(config)
    numbers = slice_numbers(config, mesh.tensor)
    sizes: dict[Any, int] = {}
    for name, one in model.parameters.items():
        sizes[one.layer] = sizes.get(one.layer, 0) + numbers[name]
    own = sum(sizes.values())
    outside = sizes.pop(None, 0)
    layers = max(sizes.values(), default=0)
    at_once = 2 * layers if run.parallel.reshard_after_forward else sum(sizes.values())
    whole = sum(prod(model.shape(name)) for name in numbers)
    shard, moments = -(-4 * own // mesh.shard), memory.moments * own // whole
    return replace(
        memory,
        weights=shard + itemsize * (outside + at_once),
        gradients=shard + itemsize * (outside + layers),
        moments=-(-moments // mesh.shard),
    )


def device_memory(device: Device, world: int = 1) -> int:
    """Bytes that a rank's device has; ranks of one host share the memory of its processors."""
    if device.name == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    here = min(world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // here


def free_memory(device: Device) -> int:
    """Bytes that a process can have now."""
    if device.name == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def fitting_sequences(run: RunConfig, config: Mapping[str, Any], device: Device) -> int:
    """The largest micro-batch, a divisor of the batch, whose step fits into the device; 0 where none does."""
    room = int(_ROOM * device_memory(device))
    batch = run.batch.sequences
    for sequences in range(batch, 0, -1):
        if batch % sequences == 0 and step_memory(run, config, device, sequences).total <= room:
            return sequences
    return 0

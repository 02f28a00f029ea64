"""Live models and optimizers as training loops hold them, without what is wrapped around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from outgrow.errors import CheckpointError

_HELD = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}
_REFUSED = {
    "FullyShardedDataParallel": (
        "a model that FSDP1 has cut, whose parameters are flat pieces",
        "cut it by fully_shard (FSDP2), or save it and open the checkpoint",
    ),
    "DeepSpeedEngine": ("a model of DeepSpeed", "save it with save_pretrained, and open that folder"),
}


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside DDP, DataParallel and torch.compile; an error that names a wrapper that changes the parameters.

    >>> linear = nn.Linear(2, 2)
    >>> plain_model(nn.DataParallel(linear)) is linear
    True
    """
    while True:
        kind = type(model).__name__
        if kind in _HELD and hasattr(model, _HELD[kind]):
            model = getattr(model, _HELD[kind])
            continue
        if type(model).__module__.split(".")[0] == "peft":
            raise CheckpointError(
                "the model has an adapter (PEFT), which is not part of it",
                got=kind,
                fix="merge it: model.merge_and_unload()",
            )
        if kind in _REFUSED:
            what, fix = _REFUSED[kind]
            raise CheckpointError(f"this is {what}", got=kind, fix=fix)
        inner = sorted({type(one).__name__ for one in model.modules()} & {*_HELD, *_REFUSED})
        if inner:
            fix = "give the model itself; to compile layers in place use module.compile()"
            raise CheckpointError("parts of the model are wrapped", got=", ".join(inner), fix=fix)
        return model


def plain_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside Accelerate's."""
    while type(optimizer).__name__ == "AcceleratedOptimizer":
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise CheckpointError(
            "this is no optimizer of torch",
            got=type(optimizer).__name__,
            fix="give the torch.optim.Optimizer inside",
        )
    return optimizer

"""Live objects as training loops hold them are unwrapped, or named."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from tiny_models import assert_same_tensors, tiny_llama, train
from torch import nn

from outgrow.errors import CheckpointError
from outgrow.state.training_state import TrainingState


def test_wrapped_objects_are_the_plain_ones() -> None:
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 1)
    plain = TrainingState.from_model(model, optimizer)
    prepared = Accelerator(cpu=True).prepare(optimizer)
    for wrapped in (nn.DataParallel(model), torch.compile(model), nn.DataParallel(torch.compile(model))):
        state = TrainingState.from_model(wrapped, prepared)  # type: ignore[arg-type]
        assert state.config == plain.config
        assert_same_tensors(state, plain)
        plain.load_into(wrapped, prepared)  # type: ignore[arg-type]


def test_wrapped_parts_are_named() -> None:
    model = tiny_llama()
    model.model.layers[0] = torch.compile(model.model.layers[0])
    with pytest.raises(CheckpointError, match="OptimizedModule"):
        TrainingState.from_model(model)

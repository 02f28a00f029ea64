"""Live objects as training loops hold them are unwrapped, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny_models import assert_same_tensors, tiny_llama, train
from torch import nn
from transformers import AutoModelForCausalLM

import outgrow
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


def test_the_optimizer_of_accelerate_grows() -> None:
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 1)
    prepared = Accelerator(cpu=True).prepare(optimizer)
    _, grown, _ = outgrow.grow_model(model, prepared, to={"num_hidden_layers": 4}, depth="identity")
    assert type(grown) is torch.optim.AdamW
    assert grown.state


def test_how_a_model_generates_comes_along(tmp_path: Path) -> None:
    """Its lists of eos tokens and its sampling stand in no config of its sizes."""
    model = tiny_llama()
    model.generation_config.eos_token_id, model.generation_config.temperature = [2, 5], 0.7
    model.generation_config.do_sample = True
    how: dict[str, Any] = {"to": {"num_hidden_layers": 4}, "depth": "identity"}
    large, _, _ = outgrow.grow_model(model, **how)
    state = outgrow.grow(TrainingState.from_model(model), **how)
    state.save_pretrained(tmp_path / "large")
    opened = TrainingState.from_pretrained(tmp_path / "large").to_model()
    for one in (large, state.to_model(), opened, AutoModelForCausalLM.from_pretrained(tmp_path / "large")):
        assert one.generation_config.eos_token_id == [2, 5]
        assert one.generation_config.temperature == 0.7
    assert large.generation_config is not model.generation_config
    assert not TrainingState.from_model(tiny_llama()).assets

"""`verify` with 0 steps: the losses alone, and never two models at once."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from outgrow.proof import verify as proof
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState


def test_no_steps_compare_the_losses_of_one_model_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = TrainingState.from_model(
        LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes, bos_token_id=1, eos_token_id=2))
    )
    large = grow(small, to={"hidden_size": 12, "intermediate_size": 20}, width="isometric")
    built: list[weakref.ref[Any]] = []
    build = proof.build_model

    def counted(*args: Any, **kwargs: Any) -> Any:
        assert all(model() is None for model in built)
        model = build(*args, **kwargs)
        assert not any(parameter.grad is not None for parameter in model.parameters())
        built.append(weakref.ref(model))
        return model

    monkeypatch.setattr(proof, "build_model", counted)
    found = proof.verify(small, large, steps=0)
    assert len(built) == 2
    assert found.passed
    assert found.function_kept
    assert found.gradient == ()
    assert "gradients were not looked at" in str(found)
    # Another model of the same sizes does not have the same loss, nor the weights of the plan.
    torch.manual_seed(1)
    other = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes, bos_token_id=1, eos_token_id=2))
    wrong = proof.verify(TrainingState.from_model(other), large, steps=0)
    assert not wrong.passed
    assert not wrong.matches_plan

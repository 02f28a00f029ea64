"""`verify` with 0 steps: the losses alone, of models that hold one layer at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from outgrow.models.architecture import load_architecture, resolve
from outgrow.proof import function, guard, tiny_model
from outgrow.proof import verify as proof
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState

TYPES = ("llama", "gpt2", "mixtral", "bert", "vit", "t5", "whisper", "mamba2", "gemma3", "falcon_h1")
"""Tied and untied heads, experts, buffers that are saved, two stacks, scans, towers, layers that share."""


def held(model: nn.Module, config: dict[str, Any]) -> set[int]:
    """The layers that hold numbers."""
    layers = resolve(config).layer_modules
    return {
        layer
        for layer, path in layers.items()
        if any(not one.is_meta for one in model.get_submodule(path).parameters())
    }


@pytest.mark.parametrize("model_type", TYPES)
def test_a_streamed_model_holds_a_layer_at_a_time_and_gives_the_same_bits(model_type: str) -> None:
    config = tiny_model.example(load_architecture(model_type))
    whole = tiny_model.tiny(config)
    batch = tiny_model.inputs(whole)
    model = function.streamed(TrainingState.from_model(whole), torch.float64, "cpu")  # type: ignore[arg-type]
    assert not held(model, config)
    inside = tuple(f"{path}." for path in resolve(config).layer_modules.values())
    assert not any(one.is_meta for name, one in model.named_parameters() if not name.startswith(inside))
    seen = list[int]()
    for layer, path in resolve(config).layer_modules.items():
        model.get_submodule(path).register_forward_pre_hook(
            lambda *_, layer=layer: seen.append(layer) or _is_alone(held(model, config), layer)  # type: ignore[func-returns-value]
        )
    with torch.no_grad():  # where gradients are wanted, torch may take other kernels
        assert torch.equal(guard.logits(model, batch), guard.logits(whole, batch))
    assert set(seen) == set(resolve(config).layer_modules)
    assert not held(model, config)


def _is_alone(found: set[int], layer: int) -> None:
    assert found == {layer}


def test_a_layer_that_fails_gives_its_memory_back() -> None:
    config = tiny_model.example(load_architecture("llama"))
    model = function.streamed(TrainingState.from_model(tiny_model.tiny(config)), torch.float64, "cpu")  # type: ignore[arg-type]

    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the layer")

    model.get_submodule(f"{resolve(config).layer_modules[0]}.mlp").register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a fault of the layer"):
        guard.logits(model, tiny_model.inputs(model))
    assert not held(model, config)


def test_no_steps_compare_the_losses_and_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = TrainingState.from_model(
        LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes, bos_token_id=1, eos_token_id=2))
    )
    large = grow(small, to={"hidden_size": 12, "intermediate_size": 20}, width="isometric")

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was built whole")

    monkeypatch.setattr(proof, "build_model", refused)
    found = proof.verify(small, large, steps=0)
    monkeypatch.undo()
    assert found.loss_small == proof.verify(small, large, steps=1).loss_small
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

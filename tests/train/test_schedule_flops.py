"""Schedules are arithmetic; FLOPs and parameter counts agree with PyTorch's own count on real models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from outgrow.errors import ArchitectureError
from outgrow.flops import model_cost, parameter_count, training_flops_per_token
from outgrow.schedule import WSD, Constant, Cosine, Linear, learning_rate, parse_count


@pytest.mark.parametrize(
    "schedule", [Constant(warmup_tokens=100), Linear(warmup_tokens=100), WSD(warmup_tokens=100)]
)
def test_warmup_is_linear_in_tokens(schedule: Any) -> None:
    assert [schedule.factor(t, 1000) for t in (0, 25, 50)] == [0.0, 0.25, 0.5]
    assert schedule.factor(100, 1000) == 1.0


def test_shapes_after_the_warmup() -> None:
    assert Linear(warmup_tokens=200, final=0.5).factor(600, 1000) == 0.75
    assert Linear().factor(1000, 1000) == 0.0
    assert Linear().factor(2000, 1000) == 0.0
    assert math.isclose(Cosine(warmup_tokens=200, final=0.0).factor(600, 1000), 0.5)
    assert math.isclose(Cosine(final=0.1).factor(1000, 1000), 0.1)
    assert [WSD(decay_share=0.5).factor(t, 1000) for t in (500, 750, 1000)] == [1.0, 0.5, 0.0]
    assert WSD(decay_share=0.5, decay="sqrt").factor(625, 1000) == 0.5
    assert WSD(decay_share=0.0).factor(1000, 1000) == 1.0


def test_stages_share_one_schedule_and_may_warm_up_again() -> None:
    wsd = WSD(decay_share=0.1)
    assert learning_rate(wsd, 1e-3, 500, 1000, stage_start=500) == 1e-3
    assert learning_rate(wsd, 1e-3, 500, 1000, stage_start=500, rewarm_tokens=100) == 0.0
    assert learning_rate(wsd, 1e-3, 550, 1000, stage_start=500, rewarm_tokens=100) == 5e-4
    assert learning_rate(wsd, 2e-3, 700, 1000, stage_start=500, rewarm_tokens=100) == 2e-3


@pytest.mark.parametrize(
    ("text", "count"),
    [("2M", 2_000_000), ("1.5B", 1_500_000_000), ("1e6", 10**6), (1e6, 10**6), (7, 7), ("3_000", 3000)],
)
def test_counts(text: Any, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["two", "1.5", 0.5, True, float("nan")])
def test_counts_that_are_not_counts(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a"):
        parse_count(text)


LLAMA = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
}
GQA = {**LLAMA, "num_key_value_heads": 2, "head_dim": 10}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", LLAMA),
    "llama-gqa-tied": (
        "llama",
        {**GQA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral": ("mistral", GQA),
    "qwen2": ("qwen2", {**LLAMA, "num_key_value_heads": 2}),
    "qwen3": ("qwen3", {**GQA, "attention_bias": True}),
    "gpt2": ("gpt2", {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 32}),
    "gpt2-inner": ("gpt2", {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 70, "vocab_size": 50}),
    "bert": ("bert", LLAMA),
    "roberta": ("roberta", {**LLAMA, "max_position_embeddings": 40}),
}


@pytest.mark.parametrize("name", MODELS)
def test_counts_agree_with_pytorch(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    model_type, fields = MODELS[name]
    config = AutoConfig.for_model(model_type, **fields)
    auto = AutoModelForMaskedLM if model_type in ("bert", "roberta") else AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager")
    content = config.to_dict()
    assert parameter_count(content) == sum(p.numel() for p in model.parameters())

    batch, length = 2, 16
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(5, 45, (batch, length))).logits.sum().backward()
    ours = training_flops_per_token(content, length) * batch * length
    assert abs(counter.get_total_flops() / ours - 1) < 0.01


def test_unknown_model_type_names_the_known_ones() -> None:
    with pytest.raises(ArchitectureError, match="did you mean llama"):
        model_cost({"model_type": "lama"})

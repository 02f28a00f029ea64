"""Small real models, built by transformers, all axis sizes different, weights and norms random, float64."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from outgrow.architectures import Model, load, resolve

GPT2 = {"n_embd": 24, "n_head": 4, "n_layer": 3, "n_inner": 40, "n_positions": 16, "vocab_size": 37}
BERT = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "vocab_size": 37,
    "type_vocab_size": 2,
}
LLAMA = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "vocab_size": 37,
    "max_position_embeddings": 32,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt2-untied": {"model_type": "gpt2", **GPT2, "tie_word_embeddings": False},
    "bert": {"model_type": "bert", **BERT},
    "roberta": {"model_type": "roberta", **BERT, "pad_token_id": 1, "bos_token_id": 0, "layer_norm_eps": 1e-12},
    "bert-untied": {"model_type": "bert", **BERT, "tie_word_embeddings": False},
    "llama": {"model_type": "llama", **LLAMA},
    "llama-tied-bias": {"model_type": "llama", **LLAMA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", **LLAMA, "sliding_window": 5},
    "qwen2": {"model_type": "qwen2", **{k: v for k, v in LLAMA.items() if k != "head_dim"}, "hidden_size": 32},
    "qwen3-tied": {"model_type": "qwen3", **LLAMA, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **LLAMA},
}


def config(name: str) -> dict[str, Any]:
    """The full config of a small model, defaults filled in by transformers."""
    settings = {**TOKENS, **CONFIGS[name]}
    return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings).to_dict()


def resolved(name: str) -> Model:
    return resolve(config(name))


def build(full: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """A model with random weights, also in norms and biases, so that no zero or one hides a mistake."""
    made = transformers.AutoConfig.for_model(**full)
    model = getattr(transformers, load(full["model_type"]).class_)(made)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            gain = "norm" in name.lower() or "ln_" in name
            if parameter.dim() == 1:
                parameter.copy_(noise * 0.3 + (1.0 if gain and name.endswith("weight") else 0.0))
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5 if "emb" not in name and "wte" not in name else noise)
    return model.to(dtype).eval()


def batch(full: dict[str, Any], seed: int = 1) -> dict[str, torch.Tensor]:
    """A fixed batch of tokens of the small vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 37, (3, 9), generator=generator)
    return {"input_ids": tokens, "labels": tokens.clone()}


def loss_and_gradients(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }
    return loss.item(), gradients

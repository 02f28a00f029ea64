"""How much computing a token costs, from a model's `config.json` alone.

    forward FLOPs per token = 2 * (weights of all matrix products) + 4 * layers * heads * head_dim * sequence_length
    training FLOPs per token = 3 * forward                       (backward = 2 * forward)

Only matrix products count (two FLOPs per multiply-add). Attention is counted over the whole square of the sequence,
as `torch.utils.flop_counter` does, although a causal kernel may skip half of it. Embedding look-ups cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ArchitectureError, near

SUPPORTED = ("bert", "gpt2", "llama", "mistral", "qwen2", "qwen3", "roberta")


@dataclass(frozen=True)
class Cost:
    """What one model has and does: parameters (tied ones once) and multiply-adds per token."""

    parameters: int
    matrix_weights: int  # weights that take part in a matrix product for every token, the head included
    attention_width: (
        int  # layers * heads * head_dim: each position costs 2 multiply-adds of this width per other position
    )

    def forward(self, sequence_length: int) -> int:
        """FLOPs per token, forward."""
        return 2 * self.matrix_weights + 4 * self.attention_width * sequence_length

    def training(self, sequence_length: int) -> int:
        """FLOPs per token, forward and backward."""
        return 3 * self.forward(sequence_length)


def model_cost(config: Mapping[str, Any]) -> Cost:
    """Parameters and multiply-adds of a language model, from the content of its `config.json`.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> cost = model_cost(tiny)
    >>> cost.parameters, cost.training(sequence_length=4)
    (824, 4704)
    """
    model_type = str(config.get("model_type"))
    if model_type == "gpt2":
        return _gpt2(config)
    if model_type in ("bert", "roberta"):
        return _bert(config)
    if model_type in SUPPORTED:
        return _llama(config, model_type)
    raise ArchitectureError(
        "FLOPs of this model type are not known", got=model_type, expected=near(model_type, SUPPORTED)
    )


def training_flops_per_token(config: Mapping[str, Any], sequence_length: int) -> int:
    """FLOPs of one token, forward and backward, in sequences of `sequence_length`."""
    return model_cost(config).training(sequence_length)


def parameter_count(config: Mapping[str, Any]) -> int:
    """Parameters of the language model, tied ones once."""
    return model_cost(config).parameters


def _llama(config: Mapping[str, Any], model_type: str) -> Cost:
    embed, mlp, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads, vocab = config["num_attention_heads"], config["vocab_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or (128 if model_type == "qwen3" else embed // heads)
    queries, keys = heads * head_dim, kv_heads * head_dim

    matrices = embed * queries + 2 * embed * keys + queries * embed + 3 * embed * mlp
    vectors = 2 * embed  # the two norms
    if model_type == "qwen2":
        vectors += queries + 2 * keys
    elif model_type in ("llama", "qwen3") and config.get("attention_bias"):
        vectors += queries + 2 * keys + embed
    if model_type == "qwen3":
        vectors += 2 * head_dim  # q_norm and k_norm
    if model_type == "llama" and config.get("mlp_bias"):
        vectors += 2 * mlp + embed
    tables = vocab * embed * (1 if config.get("tie_word_embeddings") else 2)
    parameters = layers * (matrices + vectors) + embed + tables
    return Cost(parameters, layers * matrices + vocab * embed, layers * queries)


def _gpt2(config: Mapping[str, Any]) -> Cost:
    embed, layers, vocab = config["n_embd"], config["n_layer"], config["vocab_size"]
    mlp = config.get("n_inner") or 4 * embed
    matrices = 4 * embed * embed + 2 * embed * mlp
    vectors = 3 * embed + embed + mlp + embed + 4 * embed
    tables = (
        vocab * embed * (1 if config.get("tie_word_embeddings", True) else 2) + config["n_positions"] * embed
    )
    parameters = layers * (matrices + vectors) + 2 * embed + tables
    return Cost(parameters, layers * matrices + vocab * embed, layers * embed)


def _bert(config: Mapping[str, Any]) -> Cost:
    embed, mlp, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    vocab = config["vocab_size"]
    matrices = 4 * embed * embed + 2 * embed * mlp
    vectors = 4 * embed + mlp + embed + 4 * embed
    rows = vocab + config["max_position_embeddings"] + config["type_vocab_size"]
    untied = 0 if config.get("tie_word_embeddings", True) else vocab * embed
    head = embed * embed + embed + 2 * embed + vocab  # dense, its norm, the decoder's bias
    parameters = rows * embed + 2 * embed + layers * (matrices + vectors) + head + untied
    return Cost(parameters, layers * matrices + embed * embed + vocab * embed, layers * embed)

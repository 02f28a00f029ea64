"""Which parameters a law counts: all of them (Hoffmann et al.), or those outside embeddings and head (Kaplan et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from outgrow.cost.flops import model_cost

ParameterCount = Literal["all", "without_embeddings"]


def law_parameters(config: Mapping[str, Any], count: ParameterCount) -> int:
    """Parameters of a model as a law counts them, from the content of its `config.json`.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> law_parameters(tiny, "all") - law_parameters(tiny, "without_embeddings")
    160
    """
    cost = model_cost(config)
    return cost.parameters if count == "all" else cost.non_embedding

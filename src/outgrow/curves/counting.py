"""Which parameters a law counts: all of them (Hoffmann et al.), or those outside embeddings and head (Kaplan et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal

from outgrow.architectures import resolve

Count = Literal["all", "without_embeddings"]


def law_parameters(config: Mapping[str, Any], count: Count) -> int:
    """Parameters of a model as a law counts them, from the content of its `config.json`.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> law_parameters(tiny, "all") - law_parameters(tiny, "without_embeddings")
    160
    """
    model = resolve(config)
    if count == "all":
        return model.num_parameters
    tables = ("lookup", "fixed")
    return sum(
        prod(parameter.signature.shape(model.sizes))
        for parameter in model.parameters.values()
        if not any(
            model.axes[name].through in tables
            for name in parameter.signature.axes("reads") | parameter.signature.axes("writes")
        )
    )

"""How much memory a proof needs (`verify`), above Python's own: without steps one layer at a time, else whole models.

    no steps    what is outside of all layers, the largest layer, and the more of
                  one layer's activations: what it would keep for a backward pass; nothing is kept of the others
                  the head's: scores, a copy of them in float32 where they are of another dtype, log-probabilities
    steps       the small model, then the large one, with gradients and two moments each, as in training
                (cost/memory.py), and besides the large one the small one's gradients
    updates     of a state with Adam's moments: AdamW's first update of every entry, in float64, and once more to find the median

Mapped files of checkpoints are not counted: the system takes their pages back where it needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from outgrow.cost.flops import model_cost
from outgrow.cost.memory import training_memory
from outgrow.models.architecture import resolve

_FLOAT32, _FLOAT64 = 4, 8
_BASE = 8 << 20
"""Modules, tables, and the blocks in which tensors are read."""


def forward_memory(
    config: Mapping[str, Any], *, sequences: int, sequence_length: int, itemsize: int = 4
) -> int:
    """Bytes of a pass over `sequences` of `sequence_length` in numbers of `itemsize` bytes, with a loss at every place.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3,
    ...         "num_attention_heads": 2, "vocab_size": 999}
    >>> forward_memory(tiny, sequences=1, sequence_length=4) - forward_memory(tiny | {"num_hidden_layers": 9},
    ...     sequences=1, sequence_length=4)
    0
    """
    model = resolve(config)
    weights: Counter[int | None] = Counter()
    for name, parameter in model.parameters.items():
        weights[parameter.layer] += prod(model.shape(name))
    outside = weights.pop(None, 0)
    length = model_cost(config).length or sequence_length
    asked = sequences * length if model.spec.objective != "image" else sequences
    tables = (size for name, size in model.sizes.items() if model.axes[name].is_lookup)
    scores = asked * max(tables, default=0)
    kept = training_memory(config, sequences=sequences, sequence_length=length, mask_share=None).activations
    layer = itemsize * (kept // _FLOAT32 - scores) // max(1, model.layers)
    head = scores * (itemsize + _FLOAT32 * (itemsize != _FLOAT32) + _FLOAT32)
    return _BASE + itemsize * (outside + max(weights.values(), default=0)) + max(layer, head)


def proof_memory(
    small: Mapping[str, Any],
    large: Mapping[str, Any],
    *,
    sequences: int,
    sequence_length: int,
    itemsize: int = 4,
    adam: bool = False,
) -> int:
    """Bytes of a proof with steps; `adam`: the large state has Adam's moments, whose first update is looked at.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> proof_memory(tiny, tiny, sequences=1, sequence_length=4)
    8408256
    """
    length = model_cost(large).length or sequence_length
    before, after = (
        training_memory(one, sequences=sequences, sequence_length=length, mask_share=None).total
        for one in (small, large)
    )
    weights, kept = model_cost(large).parameters, itemsize * model_cost(small).parameters
    updates = (2 * itemsize + 2 * _FLOAT64) * weights if adam else 0
    return _BASE + max(before * itemsize // _FLOAT32, after * itemsize // _FLOAT32 + kept, updates + kept)

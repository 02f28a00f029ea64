"""What a step costs while a part of the model is frozen.

training FLOPs = Σ over matrices 2 · weights · (1 + [something trains here or below] + [trains itself])  +  attention
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

from outgrow.cost.flops import asked_places, in_head, matrix_products, model_cost
from outgrow.cost.spans import MASK_SHARE, span_lengths
from outgrow.cost.stacks import in_encoder
from outgrow.models.architecture import resolve


def frozen_training_flops(
    config: Mapping[str, Any],
    sequence_length: int,
    frozen: Collection[str],
    mask_share: float = MASK_SHARE,
) -> int:
    """FLOPs of one token (or image), forward and backward, while some parameters are frozen.

    A frozen matrix needs no gradient of its own, and nothing flows back to below the lowest layer that trains. That layer
    is counted as a whole, a little more than what is computed.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> frozen_training_flops(tiny, 4, ()) == model_cost(tiny).training(4)
    True
    """
    model = resolve(config)
    length = model.sequence or sequence_length
    # -1: before the layers; then the layers' own numbers; then one place for each parameter behind them
    places, last = dict[str, int](), -1
    for name, parameter in model.parameters.items():
        last = parameter.layer if parameter.layer is not None else last + (last >= 0)
        places[name] = last
    lowest = min((place for name, place in places.items() if name not in frozen), default=model.layers + 1)
    total, products_apart, met = 0, 0, model.active_sizes
    for parameter, signature in matrix_products(model):
        place = places[parameter.name] if signature is parameter.signature else last + 1  # a tied head
        count = length if parameter.at is None else model.positions(parameter.at)
        if model.spec.encoder is not None:
            lengths = span_lengths(length, mask_share)
            count = (
                lengths.encoder
                if in_encoder(model, parameter) and signature is parameter.signature
                else lengths.decoder
            )
        if in_head(model, parameter, signature):
            count = asked_places(config, length, mask_share)
        if parameter.at is not None:
            products_apart += prod(signature.shape(met)) * count
        flows = lowest < place or (lowest == place < model.layers)
        passes = 1 + flows + (parameter.name not in frozen)
        total += 2 * prod(signature.shape(met)) * count * passes
    passes = sum(3 if lowest <= layer else 1 for layer in range(model.layers))
    if model.layers:
        cost = model_cost(config)
        every = cost.attending(length, mask_share) + cost.relative * length  # by one sequence, in all layers
        total += 2 * (every // model.layers) * passes
    if model.spec.attended is not None:  # behind the layers, where gradients always flow
        total += 6 * (model_cost(config).apart - products_apart)
    return total if model.sequence is not None else total // length

"""How much computing a token costs, from a model's `config.json` and its architecture file alone.

    forward FLOPs per token = 2 * (weights of all matrix products) + 2 * layers * heads * (query_dim + value_dim) * sequence_length
    training FLOPs per token = 3 * forward                       (backward = 2 * forward)

Only matrix products count (two FLOPs per multiply-add). Attention is counted over the whole square of the sequence,
as `torch.utils.flop_counter` does, although a causal kernel may skip half of it. Embedding look-ups cost nothing.
A signature says which weights take part: those that read an axis other than a look-up, tied heads included.

An image has a length of its own, and some matrices see a part of it (patches, the class token). So its unit is the image:

    forward FLOPs per image = 2 * length * (weights at every position) + 2 * sum(weights * positions) + attention
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from outgrow.architectures import Model, resolve
from outgrow.axes import Signature


@dataclass(frozen=True)
class Cost:
    """What one model has and does: parameters (tied ones once) and multiply-adds per token."""

    parameters: int
    non_embedding: int  # without look-up tables and the head: the N of the scaling laws
    matrix_weights: int  # weights that take part in a matrix product for every token, the head included
    attention_width: (
        int  # layers * heads * (query_dim + value_dim): multiply-adds per token and other position
    )
    apart: int = 0  # multiply-adds per sequence of matrices that work at some of its positions only
    length: int | None = None  # of every sequence, where the config fixes it

    def forward(self, sequence_length: int) -> int:
        """FLOPs per token, forward."""
        return 2 * self.matrix_weights + 2 * self.attention_width * sequence_length

    def training(self, sequence_length: int) -> int:
        """FLOPs per token, forward and backward."""
        return 3 * self.forward(sequence_length)

    def training_image(self) -> int:
        """FLOPs per image, forward and backward."""
        assert self.length is not None
        return 3 * (self.forward(self.length) * self.length + 2 * self.apart)


def model_cost(config: Mapping[str, Any]) -> Cost:
    """Parameters and multiply-adds of a model, from the content of its `config.json`.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> cost = model_cost(tiny)
    >>> cost.parameters, cost.training(sequence_length=4)
    (824, 4704)
    """
    model = resolve(config)
    matrices = apart = 0
    for parameter in model.parameters.values():
        signatures = [one for one in (parameter.signature, *parameter.tied) if _is_product(one, model)]
        weights = sum(prod(one.shape(model.sizes)) for one in signatures)
        if parameter.at is None:
            matrices += weights
        else:
            apart += weights * model.positions(parameter.at)
    heads = prod(model.sizes[name] for name, axis in model.axes.items() if axis.through == "heads")
    width = model.layers * heads * (model.sizes["query_dim"] + model.sizes["value_dim"])
    tables = sum(
        prod(model.shape(name)) for name, one in model.parameters.items() if _is_table(one.signature, model)
    )
    return Cost(model.num_parameters, model.num_parameters - tables, matrices, width, apart, model.sequence)


def training_flops_per_token(config: Mapping[str, Any], sequence_length: int) -> int:
    """FLOPs of one token, forward and backward, in sequences of `sequence_length`."""
    return model_cost(config).training(sequence_length)


def training_flops(config: Mapping[str, Any], sequence_length: int) -> tuple[str, int]:
    """The unit of a model's data, and the FLOPs of one, forward and backward: of an image where the config fixes its length.

    >>> tiny = {"model_type": "vit", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "image_size": 6, "patch_size": 3, "num_channels": 1}
    >>> training_flops(tiny, sequence_length=1024)
    ('image', 20640)
    """
    cost = model_cost(config)
    return (
        ("token", cost.training(sequence_length)) if cost.length is None else ("image", cost.training_image())
    )


def parameter_count(config: Mapping[str, Any]) -> int:
    """Parameters of the model, tied ones once."""
    return model_cost(config).parameters


def _is_table(signature: Signature, model: Model) -> bool:
    """Whether one of its dimensions counts tokens or positions: an embedding, the head or the head's bias."""
    return any(model.axes[name].through in ("lookup", "fixed") for dim in signature.dims for name in dim.axes)


def _is_product(signature: Signature, model: Model) -> bool:
    """Whether activations are multiplied by this weight: it writes one axis and reads another, not a table."""
    reads = signature.axes("reads")
    return bool(reads and signature.axes("writes")) and all(
        model.axes[name].through not in ("lookup", "fixed") for name in reads
    )


def frozen_training_flops(config: Mapping[str, Any], sequence_length: int, frozen: Collection[str]) -> int:
    """FLOPs of one token (or image), forward and backward, while some parameters are frozen.

        2 · weights · (1 + [something trains here or below] + [trains itself])

    A frozen matrix needs no gradient of its own, and nothing flows back to below the lowest layer that trains. That layer
    is counted as a whole, a little more than what is computed.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> frozen_training_flops(tiny, 4, ()) == model_cost(tiny).training(4)
    True
    """
    model = resolve(config)
    length = model.sequence or sequence_length
    places, last = (
        dict[str, int](),
        -1,
    )  # -1: before the layers; then theirs; then one place for each behind them
    for name, parameter in model.parameters.items():
        last = parameter.layer if parameter.layer is not None else last + (last >= 0)
        places[name] = last
    lowest = min((place for name, place in places.items() if name not in frozen), default=model.layers + 1)
    total = 0
    for name, parameter in model.parameters.items():
        count = length if parameter.at is None else model.positions(parameter.at)
        for place, one in [
            (places[name], parameter.signature),
            *((last, one) for one in parameter.tied),
        ]:
            if _is_product(one, model):
                flows = lowest < place or (lowest == place < model.layers)
                passes = 1 + flows + (name not in frozen)
                total += 2 * prod(one.shape(model.sizes)) * count * passes
    per_layer = model_cost(config).attention_width // model.layers
    passes = sum(3 if lowest <= layer else 1 for layer in range(model.layers))
    total += 2 * per_layer * length * length * passes
    return total if model.sequence is not None else total // length

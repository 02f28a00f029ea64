"""How much computing a token costs, from a model's `config.json` and its architecture file alone.

    forward FLOPs per token = 2 * (weights of all matrix products) + 2 * (query + value units of all heads) * sequence_length
    training FLOPs per token = 3 * forward                       (backward = 2 * forward)

Only matrix products count (two FLOPs per multiply-add). Attention is counted over the whole square of the sequence,
as `torch.utils.flop_counter` does; `causal=True` counts what a kernel must do that skips what lies ahead: position i sees
i + 1 positions, (sequence_length + 1) / 2 on average. Sliding windows are not deducted. Embedding look-ups cost nothing.
A signature says which weights take part: those that read an axis other than a look-up, tied heads included. Query heads
that share keys (GQA) save weights and memory, not attention FLOPs. Of experts, a token's own count, and the router.
A table of relative positions that meets every token (deberta) counts; its projection, once per batch, does not (`Cost.once`).

A masked model makes scores at the hidden places alone (`asked_places`), so its head takes part there alone:

    forward FLOPs per token = 2 * (weights outside the head) + 2 * (the head's) * asked places / sequence_length + attention

A model with an encoder and a decoder (`encoder` in its file) reads a text of which spans are hidden, and writes those
(`cost/spans.py`): each stack's weights and attention count at its own places, the decoder's keys and values of the encoder at the
encoder's.

An image has a length of its own, and some matrices see a part of it (patches, the class token). So its unit is the image:

    forward FLOPs per image = 2 * length * (weights at every position) + 2 * sum(weights * positions) + attention

    fitting an operator for one step = training step of the target + 3 * products with the maps  (arXiv 2303.00980)
    hours = tokens / measured tokens per second / 3600
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from outgrow.algebra.axes import Signature
from outgrow.cost.attention import attention
from outgrow.cost.spans import MASK_SHARE, span_lengths
from outgrow.cost.stacks import crossing_of, encoder_of, in_encoder
from outgrow.errors import ConfigError
from outgrow.models.architecture import head_module, is_kind, load_architecture, resolve
from outgrow.models.expressions import got, size_of
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import ScanSpec


@dataclass(frozen=True)
class EncoderCost:
    """What of a model works at the places of its encoder: multiply-adds per place, and per pair of places."""

    weights: int
    width: int
    """Of the encoder's own attention."""
    crossing: int
    """Of the decoder's attention to the encoder."""


@dataclass(frozen=True)
class Cost:
    """What one model has and does: parameters (tied ones once) and multiply-adds per token."""

    parameters: int
    non_embedding: int  # without look-up tables and the head: the N of the scaling laws
    matrix_weights: int  # weights that take part in a matrix product for every token, the head included
    head_weights: int  # of these, the head's
    attention_width: (
        int  # query and value units of all heads and layers: multiply-adds per token and other position
    )
    apart: int = 0  # multiply-adds per sequence where only some of its positions take part
    length: int | None = None  # of every sequence, where the config fixes it
    idle: int = 0  # parameters of experts that a token does not meet
    relative: int = 0  # multiply-adds per token with the rows of a table of relative positions
    once: int = 0  # multiply-adds per batch, whatever its size, by which that table is projected: counted nowhere else
    encoder: EncoderCost | None = None  # the part that sees what the encoder does, where a text is cut in two

    @property
    def active(self) -> int:
        """Parameters that work for one token: all, but for the experts that its router does not pick.

        >>> tiny = {"model_type": "mixtral", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        ...         "num_attention_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 1, "vocab_size": 10}
        >>> cost = model_cost(tiny)
        >>> cost.parameters - cost.active == 3 * (3 * 8 * 16)
        True
        """
        return self.parameters - self.idle

    def forward(
        self,
        sequence_length: int,
        *,
        causal: bool = False,
        asked: int | None = None,
        share: float = MASK_SHARE,
    ) -> int:
        """FLOPs per token, forward, on average over a sequence; scores at `asked` of its places, by default at all.

        Where a decoder writes what the encoder does not see, a `share` of the text in spans: per token of the text.
        """
        if self.encoder is not None:
            lengths = span_lengths(sequence_length, share)
            decoder = self.matrix_weights - self.encoder.weights
            products = self.encoder.weights * lengths.encoder + decoder * lengths.decoder
            pairs = self.attending(sequence_length, share, causal=causal)
            return 2 * (products + pairs) // sequence_length
        seen_twice = sequence_length + 1 if causal else 2 * sequence_length
        silent = 0 if asked is None else sequence_length - asked
        head = 2 * self.head_weights * silent // sequence_length
        return 2 * (self.matrix_weights + self.relative) - head + self.attention_width * seen_twice

    def attending(self, sequence_length: int, share: float = MASK_SHARE, *, causal: bool = False) -> int:
        """Multiply-adds of all attention for one sequence; `causal` as in `forward`."""

        def square(length: int, width: int, causal: bool = causal) -> int:
            return width * length * (length + 1 if causal else 2 * length) // 2

        if self.encoder is None:
            return square(sequence_length, self.attention_width)
        lengths = span_lengths(sequence_length, share)
        own = self.attention_width - self.encoder.width - self.encoder.crossing
        crossing = self.encoder.crossing * lengths.encoder * lengths.decoder
        return square(lengths.encoder, self.encoder.width, False) + crossing + square(lengths.decoder, own)

    def backward(self, sequence_length: int, *, causal: bool = False) -> int:
        """FLOPs per token, backward: a product's two gradients are a product each."""
        return 2 * self.forward(sequence_length, causal=causal)

    def training(
        self,
        sequence_length: int,
        *,
        causal: bool = False,
        asked: int | None = None,
        share: float = MASK_SHARE,
    ) -> int:
        """FLOPs per token, forward and backward."""
        return 3 * self.forward(sequence_length, causal=causal, asked=asked, share=share)

    def fitting(self, sequence_length: int, tokens: int, map_flops: float) -> float:
        """FLOPs of one step that fits a growth operator on `tokens`, this being the target.

        `map_flops`: of making the target's weights once (`growth_cost`). Backward doubles them at most: the small
        model's weights need no gradient.
        """
        return float(tokens * self.training(sequence_length) + 3 * map_flops)

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
    matrices, head, apart, met = 0, 0, 0, model.active_sizes
    for parameter, signature in matrix_products(model):
        weights = prod(signature.shape(met))
        if parameter.at is None:
            matrices += weights
            head += weights if in_head(model, parameter, signature) else 0
        else:
            apart += weights * model.positions(parameter.at)
    matrices += sum(one.spec.scanned * prod(model.shape(name)) for name, one in model.parameters.items())
    matrices += sum(_scan(model, one) for one in model.spec.scans.values())
    if model.spec.attended is not None:
        heads = prod(model.sizes[name] for name, axis in model.axes.items() if axis.is_heads)
        apart += (
            heads
            * (model.sizes["query_dim"] + model.sizes["value_dim"])
            * model.positions(model.spec.attended)
        )
    tables = sum(
        prod(model.shape(name)) for name, one in model.parameters.items() if _is_table(one.signature, model)
    )
    total = model.num_parameters
    width, (relative, once) = attention(model).width, _relative(model)
    idle, encoder = total - model.num_active, _encoder(model)
    return Cost(
        total, total - tables, matrices, head, width, apart, model.sequence, idle, relative, once, encoder
    )


def _encoder(model: Model) -> EncoderCost | None:
    """What works at the places of the encoder, where there is one with a length of its own."""
    if model.spec.encoder is None:
        return None
    products = (one for parameter, one in matrix_products(model) if in_encoder(model, parameter))
    weights = sum(prod(one.shape(model.active_sizes)) for one in products)
    return EncoderCost(weights, attention(encoder_of(model)).width, attention(crossing_of(model)).width)


def _relative(model: Model) -> tuple[int, int]:
    """Multiply-adds with a table of relative positions: per token, and once per batch to project it."""
    table = model.spec.relative
    if table is None:
        return 0, 0
    rows, kinds, units = model.positions(table.rows), got(model.config, table.kinds) or (), attention(model)
    contracted = {name for name, axis in model.axes.items() if axis.is_contracted}
    weights = sum(
        prod(signature.shape(model.sizes))
        for _, signature in matrix_products(model)
        if contracted & signature.axes("writes")
    )
    met = units.query * (table.queries in kinds) + units.key * (table.keys in kinds)
    return rows * met, rows * weights


def _scan(model: Model, scan: ScanSpec) -> int:
    """Multiply-adds per token of a recurrence in all its layers, where sequences are whole chunks (others are padded)."""
    heads = model.positions(scan.heads)
    key, value = model.sizes[scan.key], model.sizes[scan.value]
    chunk = scan.chunk if isinstance(scan.chunk, int) else size_of(scan.chunk, model.config)
    layers = sum(
        scan.inside is None or is_kind(model.spec, scan.inside, layer, model.config)
        for layer in range(model.layers)
    )
    within = key + value if scan.form == "ssd" else 2 * key + value
    return layers * heads * (chunk * within + (2 if scan.form == "ssd" else 3) * key * value)


def matrix_products(model: Model) -> Iterator[tuple[Parameter, Signature]]:
    """Every weight that activations are multiplied by, under each of its roles: a tied head is the embedding's second."""
    for parameter in model.parameters.values():
        for signature in (parameter.signature, *parameter.tied):
            if _is_product(signature, model):
                yield parameter, signature


def in_head(model: Model, parameter: Parameter, signature: Signature) -> bool:
    """Whether a product is one of those behind the last hidden state, which make scores of tokens; a tied embedding's second is."""
    return signature is not parameter.signature or parameter.name.partition(".")[0] == head_module(
        model.spec.model_type
    )


def hidden_places(sequence_length: int, mask_share: float) -> int:
    """Places of a sequence that a masked model is to find: one at least."""
    return max(1, round(mask_share * sequence_length))


def asked_places(config: Mapping[str, Any], sequence_length: int, mask_share: float = MASK_SHARE) -> int:
    """At how many places of a sequence a model is asked for scores in training: at all, a masked model at the hidden ones, a
    decoder that writes hidden spans at its own.

    >>> asked_places({"model_type": "gpt2"}, 64), asked_places({"model_type": "bert"}, 64)
    (64, 10)
    """
    spec = load_architecture(str(config.get("model_type")))
    if spec.encoder is not None:
        return span_lengths(sequence_length, mask_share).decoder
    masked = spec.objective == "masked"
    return hidden_places(sequence_length, mask_share) if masked else sequence_length


def training_flops_per_token(
    config: Mapping[str, Any], sequence_length: int, mask_share: float = MASK_SHARE
) -> int:
    """FLOPs of one token, forward and backward, in sequences of `sequence_length`."""
    asked = asked_places(config, sequence_length, mask_share)
    return model_cost(config).training(sequence_length, asked=asked, share=mask_share)


def training_flops(
    config: Mapping[str, Any], sequence_length: int, mask_share: float = MASK_SHARE
) -> tuple[str, int]:
    """The unit of a model's data, and the FLOPs of one, forward and backward: of an image where the config fixes its length.

    >>> tiny = {"model_type": "vit", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "image_size": 6, "patch_size": 3, "num_channels": 1}
    >>> training_flops(tiny, sequence_length=1024)
    ('image', 19584)
    """
    cost = model_cost(config)
    if cost.length is not None:
        return "image", cost.training_image()
    return "token", training_flops_per_token(config, sequence_length, mask_share)


def parameter_count(config: Mapping[str, Any]) -> int:
    """Parameters of the model, tied ones once."""
    return model_cost(config).parameters


def _is_table(signature: Signature, model: Model) -> bool:
    """Whether one of its dimensions counts tokens or positions: an embedding, the head or the head's bias."""
    return any(model.axes[name].is_table for dim in signature.dims for name in dim.axes)


def _is_product(signature: Signature, model: Model) -> bool:
    """Whether activations are multiplied by this weight: it writes one axis and reads another, not a table."""
    reads = signature.axes("reads")
    writes = any(dim.role == "writes" for dim in signature.dims)
    return bool(reads) and writes and all(not model.axes[name].is_table for name in reads)


@dataclass(frozen=True)
class Speed:
    """What was measured of one model: its training FLOPs per token, and the tokens per second of one device."""

    flops_per_token: float
    tokens_per_second: float


@dataclass(frozen=True)
class Speeds:
    """Measurements on one device. Small models use a device less well, so FLOPs alone do not say how long a run takes.

    >>> table = Speeds("gpu", (Speed(1e9, 200e3), Speed(4e9, 100e3)), price_per_hour=2.0)
    >>> round(table.tokens_per_second(2e9)), round(table.hours(360e6, 1e9), 6), round(table.price(360e6, 1e9), 6)
    (141421, 0.5, 1.0)
    """

    device: str
    measured: tuple[Speed, ...]
    price_per_hour: float = 0.0

    def tokens_per_second(self, flops_per_token: float) -> float:
        """A straight line in logarithms between measurements; beyond them, the FLOPs per second of the nearest."""
        if not self.measured:
            raise ConfigError(f"no speed was measured on {self.device}")
        rows = sorted(self.measured, key=lambda one: one.flops_per_token)
        costs, speeds = [one.flops_per_token for one in rows], [one.tokens_per_second for one in rows]
        inside = min(max(flops_per_token, costs[0]), costs[-1])
        speed = float(np.exp(np.interp(np.log(inside), np.log(costs), np.log(speeds))))
        return speed * inside / flops_per_token

    def hours(self, tokens: float, flops_per_token: float) -> float:
        """Of one device."""
        return tokens / self.tokens_per_second(flops_per_token) / 3600

    def price(self, tokens: float, flops_per_token: float) -> float:
        """In the currency of `price_per_hour`."""
        return self.hours(tokens, flops_per_token) * self.price_per_hour

"""How much memory a training step needs, from a model's `config.json` and its architecture file alone.

    weights + gradients + moments = (1 + 1 + moments) * 4 bytes per parameter                 (kept in float32)
    activations                   = bytes per token * tokens of one forward pass:

    norm          input, normalised input (RMSNorm only), output         each once per norm
    attention     query, key, value, output per layer; without a fused kernel also heads * sequence_length
                  probabilities, and keys and values repeated for every query head
    MLP           what the nonlinearity reads, what it writes, and if gated the other factor and the product
    experts       as an MLP, for each that a token meets, and its input, and its output before and after the router's
                  share (the eager experts of transformers)
    head          log-probabilities in float32, at the places that are asked for (all, of a masked model the hidden ones; what BERT's head
                  does before its scores is counted at all of them, a little more than is kept)

These are the tensors that PyTorch keeps for the backward pass (arXiv 2205.05198 counts them for Megatron); tensors that
two operations keep are counted once. Dropout keeps a mask more per place (left out), activation checkpointing keeps less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from outgrow.algebra.axes import Dim, Signature
from outgrow.cost.attention import attention
from outgrow.cost.flops import asked_places, matrix_products, model_cost
from outgrow.cost.spans import MASK_SHARE, span_lengths
from outgrow.cost.stacks import decoder_of, encoder_of
from outgrow.models.architecture import resolve
from outgrow.models.expressions import got
from outgrow.models.model import Model

_FLOAT32 = 4
_ACTIVATIONS = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "activation",
    "mlp_hidden_act",
    "dense_act_fn",
)
"""What configs call the nonlinearity of an MLP."""
_PYTHON_GELU = {
    "gelu_new": 4,
    "gelu_python": 4,
    "gelu_fast": 4,
}  # tensors kept where no kernel is fused; else 1


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, nothing sharded."""

    weights: int
    """In float32, and a copy of the matrices in `itemsize` where that is less."""
    gradients: int
    moments: int
    activations: int
    """Kept for the backward pass."""
    logits: int
    """The head's output and its gradient: alive at the peak, not kept."""

    @property
    def total(self) -> int:
        """The peak: what one part gives back, a process seldom gives to another (tests/battery/test_memory.py)."""
        return self.weights + self.gradients + self.moments + self.activations + self.logits


def training_memory(
    config: Mapping[str, Any],
    *,
    sequences: int,
    sequence_length: int,
    itemsize: int = 4,
    flash: bool = True,
    moments: int = 2,
    mask_share: float | None = MASK_SHARE,
) -> Memory:
    """Memory of one training step that sees `sequences` of `sequence_length` at once.

    `itemsize`: bytes of an activation, 4 or, under bf16 autocast, 2. `flash`: attention never holds its probabilities.
    `moments`: numbers that the optimizer keeps per parameter (AdamW 2, momentum 1). `mask_share`: of the places of a
    sequence, those that a masked model is to find, or the share of a text that a decoder writes; with None scores are made
    at every place, and an encoder and a decoder see a whole sequence each, as a proof lets them.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "vocab_size": 10}
    >>> training_memory(tiny, sequences=2, sequence_length=4)
    Memory(weights=3296, gradients=3296, moments=6592, activations=5696, logits=640)
    """
    model, cost = resolve(config), model_cost(config)
    scored = sequence_length if mask_share is None else asked_places(config, sequence_length, mask_share)
    asked = sequences * scored
    tables = (size for name, size in model.sizes.items() if model.axes[name].is_lookup)
    vocab = max(tables, default=0)
    copies = 0 if itemsize == _FLOAT32 else itemsize * (cost.matrix_weights + cost.idle)
    return Memory(
        weights=_FLOAT32 * cost.parameters + copies,
        gradients=_FLOAT32 * cost.parameters,
        moments=_FLOAT32 * moments * cost.parameters,
        activations=sequences
        * sum(
            length * _kept(part, length, itemsize, flash)
            for part, length in _parts(model, sequence_length, mask_share)
        )
        + asked * _FLOAT32 * vocab,
        logits=asked * vocab * (itemsize + _FLOAT32),
    )


def _parts(model: Model, sequence_length: int, mask_share: float | None) -> tuple[tuple[Model, int], ...]:
    """What of a model sees sequences of which length: an encoder and a decoder cut a text in two."""
    if model.spec.encoder is None:
        return ((model, sequence_length),)
    read = written = sequence_length
    if mask_share is not None:
        lengths = span_lengths(sequence_length, mask_share)
        read, written = lengths.encoder, lengths.decoder
    return (encoder_of(model), read), (decoder_of(model), written)


def _kept(model: Model, length: int, itemsize: int, flash: bool) -> int:
    """Bytes of activations per token."""
    return (
        _norm_bytes(model, itemsize)
        + _attention(model, length, itemsize, flash)
        + itemsize * _nonlinear(model)
        + _routed(model, itemsize)
    )


def _norm_bytes(model: Model, itemsize: int) -> int:
    """Norms compute in float32 whatever the precision. Under autocast each matrix behind one keeps a cast of its own."""
    total = 0
    for parameter in model.parameters.values():
        dims = parameter.signature.dims
        if len(dims) != 1 or not parameter.signature.is_gain:
            continue
        if parameter.signature.raw:
            total += _FLOAT32 * 2 * dims[0].size(model.sizes)
            continue
        (name,) = dims[0].axes
        axis = model.axes[name]
        width = _width(model, axis.of or name)
        inside = 2 if axis.norm == "rms" else 1
        one_for_all = itemsize == _FLOAT32 and _is_read(model, name)
        total += _FLOAT32 * width * (inside + int(one_for_all))
    if got(model.config, model.spec.layers.parallel or ""):  # a layer's two norms keep one input
        stream = next(model.sizes[name] for name, axis in model.axes.items() if axis.is_stream)
        total -= _FLOAT32 * model.layers * stream
    if itemsize < _FLOAT32:
        for _, signature in matrix_products(model):
            reads = signature.axes("reads")
            if any(model.axes[name].norm is not None for name in reads) and not _is_experts(model, signature):
                total += itemsize * prod(model.sizes[name] for name in reads)
    return total


def _attention(model: Model, sequence_length: int, itemsize: int, flash: bool) -> int:
    """Bytes per token. Probabilities are computed in float32 and, if need be, kept a second time in `itemsize`."""
    found = attention(model)
    flash = flash and not _is_biased(model)
    value, key = (found.value, found.key) if flash else (found.read, found.query)
    scores = 0 if flash else found.heads * sequence_length
    twice = _FLOAT32 if itemsize == _FLOAT32 else _FLOAT32 + itemsize
    return itemsize * (found.query + found.read + key + value) + twice * scores


def _is_biased(model: Model) -> bool:
    """Whether scores get a bias that is learned (a table of relative positions per head): no fused kernel gives its gradient."""
    return any(
        one.signature.axes("reads")
        and all(dim.role == "reads" or _are_heads(model, dim) for dim in one.signature.dims)
        and all(not model.axes[name].kind.grows for name in one.signature.axes("reads"))
        for one in model.parameters.values()
    )


def _are_heads(model: Model, dim: Dim) -> bool:
    return all(model.axes[name].is_heads for name in dim.axes)


def _routed(model: Model, itemsize: int) -> int:
    """Bytes per token that experts keep besides their units: their input, and their output before and after its share.

    The router's shares are float32 whatever the precision, and so is an output after its share.
    """
    total = 0
    for _, signature in matrix_products(model):
        if _is_experts(model, signature):
            read = sum(model.sizes[one] for one in signature.axes("reads") if model.axes[one].of is not None)
            streams = (one for one in signature.axes("writes") if model.axes[one].is_stream)
            written = sum(model.sizes[one] for one in streams)
            total += _met(model, signature) * (itemsize * read + (itemsize + _FLOAT32) * written)
    return total


def _is_experts(model: Model, signature: Signature) -> bool:
    return any(model.axes[name].active is not None for name in signature.axes("writes"))


def _met(model: Model, signature: Signature) -> int:
    """By how many matrices of those that a tensor stacks a token is multiplied: 1 where there are no experts."""
    sizes = model.active_sizes
    return prod(sizes[name] for name in signature.axes("writes") if model.axes[name].active is not None)


def _nonlinear(model: Model) -> int:
    """Numbers per token, all layers together, around the nonlinearities."""
    words = (model.own_config.get(name) for name in _ACTIVATIONS)
    kept = _PYTHON_GELU.get(next((word for word in words if word), ""), 1)
    written = list(_written(model))
    total = 0
    for name, axis in model.axes.items():
        if not axis.is_nonlinear:
            continue
        units = _units(model, name)
        for place in {place for place, dim in written if name in dim.axes}:
            writers = sum(
                sum(name in block for block in dim.products) for other, dim in written if other == place
            )
            gate = 2 if writers > 1 else 0  # the other factor, and the product, which the next matrix reads
            total += units * (kept + gate + int(_is_read(model, name)))
    return total


def _written(model: Model) -> Iterator[tuple[int | str, Dim]]:
    """(place, dimension) that every matrix product writes: the layer, or outside the growing layers the module."""
    for parameter, signature in matrix_products(model):
        place = parameter.name.rsplit(".", 2)[0] if parameter.layer is None else parameter.layer
        yield from ((place, dim) for dim in signature.dims if dim.role == "writes")


def _units(model: Model, axis: str) -> int:
    """Units of an axis behind a nonlinearity that a token has: those of every expert that it meets."""
    writing = (one for _, one in matrix_products(model) if axis in one.axes("writes"))
    return model.sizes[axis] * max((_met(model, signature) for signature in writing), default=1)


def _is_read(model: Model, axis: str) -> bool:
    """Whether a matrix product reads this axis, and so keeps it."""
    return any(axis in signature.axes("reads") for _, signature in matrix_products(model))


def _width(model: Model, axis: str) -> int:
    """Units per token of the activations that an axis is a part of: a head's dimension counts once per head."""
    for _, dim in _written(model):
        for block in dim.products:
            if axis in block:
                return prod(atom if isinstance(atom, int) else model.sizes[atom] for atom in block)
    return model.sizes[axis]

"""What attention computes and keeps, read off the signatures: which products carry queries, and which carry values.

    a parameter that writes (heads query)  ->  heads · query multiply-adds per token and other position
    a parameter that reads (heads value)   ->  heads · value

whatever stands around them: several kinds of heads, latents, layers without attention, several stacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from outgrow.algebra.axes import Dim
from outgrow.models.model import Model


@dataclass(frozen=True)
class Attention:
    """Units per token of all attention of a model, layers added up."""

    heads: int
    """Query heads: score matrices."""
    query: int
    key: int
    value: int
    """As it is written: shared by the query heads of a group."""
    read: int
    """As it is read, once for every query head."""

    @property
    def width(self) -> int:
        """Multiply-adds per token and other position: scores, and their sum over values."""
        return self.query + self.read


def attention(model: Model) -> Attention:
    """The attention of a model's layers, blocks that stand apart (`at`) left out.

    >>> from outgrow.models.architecture import resolve
    >>> attention(resolve({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3,
    ...                    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10}))
    Attention(heads=6, query=24, key=12, value=12, read=24)
    """
    queries = _axes(model, query=True)
    written = [dim for _, dim in _dims(model, "writes")]
    if not any(queries & dim.axes for dim in written):
        return _uniform(model)
    values = {
        name
        for _, dim in _dims(model, "reads")
        for product in dim.products
        if any(_is_heads(model, atom) for atom in product)
        for name in product
        if isinstance(name, str) and model.axes[name].is_linear
    }
    attending = {place for place, dim in _dims(model, "writes") if queries & dim.axes}
    read = (dim for place, dim in _dims(model, "reads") if place in attending)
    return Attention(
        heads=sum(_heads(model, dim, queries) for dim in written),
        query=sum(_units(model, dim, queries) for dim in written),
        key=sum(_units(model, dim, _axes(model, query=False)) for dim in written),
        value=sum(_units(model, dim, values) for dim in written),
        read=sum(_units(model, dim, values) for dim in read),
    )


def _uniform(model: Model) -> Attention:
    """Where no parameter names its queries (gpt_neox): every layer attends with all heads. Nothing, without queries."""
    sizes, layers = model.sizes, model.layers
    if "query_dim" not in sizes:
        return Attention(0, 0, 0, 0, 0)
    heads = layers * prod(sizes[name] for name in sizes if _is_heads(model, name))
    read = heads * sizes["value_dim"]
    kept = sum(
        _units(model, dim, {"value_dim"}) for _, dim in _dims(model, "writes")
    )  # query, key and value as one
    return Attention(
        heads, heads * sizes["query_dim"], kept * sizes["key_dim"] // sizes["value_dim"], kept, read
    )


def _dims(model: Model, role: str) -> Iterator[tuple[int | None, Dim]]:
    """(layer, dimension) of every matrix that acts at every position, of one role."""
    for parameter in model.parameters.values():
        if parameter.at is None and len(parameter.signature.dims) > 1:
            yield from ((parameter.layer, dim) for dim in parameter.signature.dims if dim.role == role)


def _axes(model: Model, *, query: bool) -> frozenset[str]:
    """Axes contracted in scores, of one side, and the inputs of norms over them."""
    found = {
        name
        for name, axis in model.axes.items()
        if axis.is_contracted and axis.with_ is not None and model.is_query(name) is query
    }
    return frozenset(found | {str(model.axes[name].of) for name in found if model.axes[name].of is not None})


def _is_heads(model: Model, atom: str | int) -> bool:
    return isinstance(atom, str) and model.axes[atom].is_heads


def _size(model: Model, product: tuple[str | int, ...]) -> int:
    return prod(atom if isinstance(atom, int) else model.sizes[atom] for atom in product)


def _units(model: Model, dim: Dim, axes: frozenset[str] | set[str]) -> int:
    """Units of the products in a dimension that hold one of these axes and heads."""
    return sum(
        _size(model, product)
        for product in dim.products
        if axes & {atom for atom in product if isinstance(atom, str)}
    )


def _heads(model: Model, dim: Dim, queries: frozenset[str]) -> int:
    """Query heads in a dimension; parts of one head (turning or not) count once."""
    counts = [
        prod(model.sizes[str(atom)] for atom in product if _is_heads(model, atom))
        for product in dim.products
        if queries & {atom for atom in product if isinstance(atom, str)}
    ]
    return max(counts, default=0)

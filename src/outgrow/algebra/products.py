"""Maps made of several maps: composition, Kronecker product, direct sum; and how far a product is from the identity.

    compose    outer · inner        one growth after another
    kron       left ⊗ right         a product of axes
    direct_sum left ⊕ right         a concatenation of axes

Of one-hot maps each is a gather again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from outgrow.algebra.linear import EMPTY, MEAN, Dense, Identity, LinearMap, Select


def compose(outer: LinearMap, inner: LinearMap) -> LinearMap:
    """`outer` after `inner`: the matrix product.

    >>> double = Select(torch.tensor([0, 1, 0, 1]), torch.ones(4, dtype=torch.float64), 2)
    >>> compose(Select(torch.tensor([3]), torch.ones(1, dtype=torch.float64), 4), double).index.tolist()
    [1]
    """
    assert outer.inputs == inner.outputs, (outer.inputs, inner.outputs)
    if outer.is_identity:
        return inner
    if inner.is_identity:
        return outer
    later, first = outer.one_hot, inner.gather
    if later is None or first is None:
        return Dense(outer.matrix() @ inner.matrix())
    safe = later.index.clamp(min=0)
    index = torch.where(later.index == EMPTY, EMPTY, first.index[safe])
    return Select(index, later.weight * first.weight[safe], first.units)


def product_error(left: LinearMap, right: LinearMap, scale: float = 1.0) -> float:
    """max |leftᵀ right - scale·I|; where both are gathers in as many steps as there are units, without the product.

    >>> halves = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)
    >>> copied = Select(torch.tensor([0, 1, 0]), torch.ones(3, dtype=torch.float64), 2)
    >>> product_error(Select(torch.tensor([0, 1, 0]), halves, 2), copied)
    0.0
    """
    assert (left.outputs, left.inputs) == (right.outputs, right.inputs), (left, right)
    if left.is_identity and right.is_identity:
        return abs(1.0 - scale)
    one, other, units = left.one_hot, right.gather, right.inputs
    if one is None or other is None:
        return _product_error_in_panels(left, right, scale)
    # The product as coordinates: an entry per output unit that both cover, and the diagonal that is wanted. Means of
    # `right` add one number to a whole row.
    both = (one.index >= 0) & (other.index >= 0)
    diagonal = torch.arange(units)
    rows = torch.cat([one.index[both], diagonal])
    columns = torch.cat([other.index[both], diagonal])
    values = torch.cat(
        [one.weight[both] * other.weight[both], torch.full([units], -scale, dtype=torch.float64)]
    )
    places, where = torch.unique(rows * units + columns, return_inverse=True)
    entries = torch.zeros(len(places), dtype=torch.float64).index_add_(0, where, values)
    spread = (one.index >= 0) & (other.index == MEAN)
    level = torch.zeros(units, dtype=torch.float64)
    level.index_add_(0, one.index[spread], one.weight[spread] * other.weight[spread] / units)
    entries += level[places // units]
    elsewhere = torch.bincount(places // units, minlength=units) < units
    return float(torch.cat([entries, level[elsewhere]]).abs().max())


_PANEL = 64
"""Columns of a product with a learned map that are held at once."""


def _product_error_in_panels(left: LinearMap, right: LinearMap, scale: float) -> float:
    worst, units = 0.0, right.inputs
    for start in range(0, units, _PANEL):
        count = min(_PANEL, units - start)
        unit = torch.zeros(units, count, dtype=torch.float64)
        unit[start : start + count].fill_diagonal_(1.0)
        error = left.transposed(right.apply(unit, 0), 0) - scale * unit
        worst = max(worst, float(error.abs().max()))
    return worst


def kron(maps: Sequence[LinearMap]) -> LinearMap:
    """Kronecker product, outermost first: the map of a product of axes.

    >>> kron([Identity(2), Select(torch.tensor([0, 0]), torch.ones(2, dtype=torch.float64), 1)]).index.tolist()
    [0, 0, 1, 1]
    """
    if len(maps) == 1:
        return maps[0]  # also keeps a map with MEAN rows a gather
    if all(map_.is_identity for map_ in maps):
        size = 1
        for map_ in maps:
            size *= map_.inputs
        return Identity(size)
    gathers = [map_.one_hot for map_ in maps]
    result = gathers[0]
    for right in gathers[1:]:
        if result is None or right is None:
            break
        empty = (result.index == EMPTY)[:, None] | (right.index == EMPTY)[None, :]
        index = result.index[:, None] * right.units + right.index[None, :]
        index = torch.where(empty, EMPTY, index).flatten()
        result = Select(
            index, (result.weight[:, None] * right.weight[None, :]).flatten(), result.units * right.units
        )
    if result is not None and all(gather is not None for gather in gathers):
        return result
    matrix = maps[0].matrix()
    for map_ in maps[1:]:
        matrix = torch.kron(matrix, map_.matrix())
    return Dense(matrix)


def direct_sum(maps: Sequence[LinearMap]) -> LinearMap:
    """Block-diagonal sum: the map of a concatenation of axes.

    >>> direct_sum([Identity(2), Identity(1)])
    Identity(size=3)
    """
    if len(maps) == 1:
        return maps[0]
    if all(map_.is_identity for map_ in maps):
        return Identity(sum(map_.inputs for map_ in maps))
    gathers = [map_.one_hot for map_ in maps]
    if any(gather is None for gather in gathers):
        return Dense(_block_diagonal([map_.matrix() for map_ in maps]))
    indexes, weights, offset = [], [], 0
    for gather in gathers:
        assert gather is not None
        indexes.append(torch.where(gather.index == EMPTY, EMPTY, gather.index + offset))
        weights.append(gather.weight)
        offset += gather.units
    return Select(torch.cat(indexes), torch.cat(weights), offset)


def _block_diagonal(matrices: Sequence[Tensor]) -> Tensor:
    whole = torch.zeros(sum(len(m) for m in matrices), sum(m.shape[1] for m in matrices), dtype=torch.float64)
    row = column = 0
    for matrix in matrices:
        whole[row : row + matrix.shape[0], column : column + matrix.shape[1]] = matrix
        row, column = row + matrix.shape[0], column + matrix.shape[1]
    return whole

"""A grown tensor as cells: every dimension is a few stretches, and each product of stretches is one block.

    cell = (stretch of dimension 0) x (stretch of dimension 1) x ...        source block · product of the weights

A cell of runs is one block copy. What lies between long runs is gathered, in the wider dtype; else nothing passes through
it unless numbers are added. What a cell holds does not depend on the box that is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import torch
from torch import Tensor

from outgrow.algebra.linear import EMPTY, MEAN, Gathered, LinearMap, Run, mean_along
from outgrow.algebra.noise import Box

RowReader = Callable[[slice | Tensor | None], Tensor]
"""Rows of a source tensor; None for the mean of all its rows, as one row."""


@dataclass(frozen=True)
class Blocks:
    """A tensor's maps, each as stretches: one tuple of them per dimension."""

    dims: tuple[tuple[Run | Gathered, ...], ...]

    @classmethod
    def of(cls, maps: Sequence[LinearMap]) -> Blocks | None:
        """The maps as stretches, or None where one of them mixes units."""
        dims = []
        for map_ in maps:
            if map_.gather is None:
                return None
            dims.append(map_.gather.stretches)
        return cls(tuple(dims))

    @cached_property
    def gathers(self) -> bool:
        """Whether some dimension is not runs alone."""
        return any(isinstance(one, Gathered) for dim in self.dims for one in dim)

    @cached_property
    def fills_all(self) -> bool:
        """Whether every entry reads something."""
        return not any(_is_empty(one) for dim in self.dims for one in dim)

    @cached_property
    def starts(self) -> tuple[list[int], ...]:
        """Where the stretches of each dimension begin."""
        return tuple([one.start for one in dim] for dim in self.dims)

    def covered(self) -> tuple[list[tuple[int, int]], ...]:
        """The stretches of each dimension in which something is read."""
        return tuple([(one.start, one.stop) for one in dim if not _is_empty(one)] for dim in self.dims)

    def overlaps(self, other: Blocks) -> bool:
        """Whether some entry is read by both."""
        return all(
            any(max(a, c) < min(b, d) for a, b in mine for c, d in others)
            for mine, others in zip(self.covered(), other.covered(), strict=True)
        )

    def cells(self, box: Box) -> Iterator[tuple[Box, tuple[Run | Gathered, ...]]]:
        """The cells in a box that read anything, and the stretch of each dimension, cut to it."""
        cut = [
            [
                one.cut(max(one.start, start), min(one.stop, stop))
                for one in dim[bisect_right(begins, start) - 1 : bisect_right(begins, stop - 1)]
                if not _is_empty(one)
            ]
            if start < stop
            else []
            for dim, begins, (start, stop) in zip(self.dims, self.starts, box, strict=True)
        ]
        for chosen in product(*cut):
            yield tuple((one.start, one.stop) for one in chosen), chosen


def _is_empty(stretch: Run | Gathered) -> bool:
    """Whether it reads nothing."""
    return isinstance(stretch, Run) and stretch.source == EMPTY


def within(out: Tensor, box: Box, cell: Box) -> Tensor:
    """The part of a box's tensor that a cell is."""
    for dim, ((start, _), (first, last)) in enumerate(zip(box, cell, strict=True)):
        out = out.narrow(dim, first - start, last - first)
    return out


def put_blocks(
    out: Tensor,
    box: Box,
    blocks: Blocks,
    part: RowReader | float,
    coefficient: float,
    wide: torch.dtype,
    *,
    add: bool,
) -> None:
    """Write a term into the box, or add it to what is there; `wide` is the dtype of means, gathers and sums."""
    head, block = None, out
    for cell, chosen in blocks.cells(box):
        target = within(out, box, cell)
        factor = coefficient * prod(one.weight for one in chosen)
        if isinstance(part, float):
            amount = _constant(part * factor, chosen, out.device)
            target.add_(amount) if add else target.copy_(amount)
            continue
        if chosen[0] is not head:
            head, block = chosen[0], _rows(part, chosen[0], wide if blocks.gathers else None)
        source = _source(block, chosen, wide)
        if add:
            target.add_(source if factor == 1.0 else source.to(wide) * factor)
        elif factor == 1.0:
            target.copy_(source)
        elif source.dtype == target.dtype and source.shape == target.shape:
            torch.mul(source, factor, out=target)  # of half precision: in float32, rounded once
        elif target.dtype == wide:
            target.copy_(source).mul_(factor)
        else:
            target.copy_(source.to(wide) * factor)


def _constant(value: float, chosen: Sequence[Run | Gathered], device: torch.device) -> Tensor:
    """What a cell holds of a source that is one number everywhere, float64; broadcasts to the cell."""
    amount = torch.tensor(value, dtype=torch.float64, device=device)
    for dim, one in enumerate(chosen):
        if isinstance(one, Gathered):
            weight = torch.where(one.map.covered(), one.map.weight, 0.0).to(device, torch.float64)
            amount = amount * weight.view([-1 if other == dim else 1 for other in range(len(chosen))])
    return amount


def _rows(part: RowReader, head: Run | Gathered, dtype: torch.dtype | None) -> Tensor:
    """What a stretch of dimension 0 reads of the source, in `dtype` or as it is."""
    if isinstance(head, Gathered):
        used, gather = head.map.sources()
        return gather.apply(part(used).to(dtype), 0)
    rows = part(None if head.source == MEAN else slice(head.source, head.source + head.stop - head.start))
    return rows if dtype is None else rows.to(dtype)


def _source(block: Tensor, chosen: Sequence[Run | Gathered], wide: torch.dtype) -> Tensor:
    """What a cell reads of these rows, with one unit in place of a dimension of which it holds the mean."""
    for dim, one in enumerate(chosen[1:], start=1):
        if isinstance(one, Run) and one.source != MEAN:
            block = block.narrow(dim, one.source, one.stop - one.start)
    for dim, one in enumerate(chosen[1:], start=1):
        if isinstance(one, Gathered):
            block = one.map.apply(block, dim)
        elif one.source == MEAN:
            block = mean_along(block.to(wide), dim)
    return block

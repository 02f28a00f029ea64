"""A grown tensor as cells: where every dimension is a few runs, each product of runs is one block copy.

    cell = (run of dimension 0) x (run of dimension 1) x ...        source block · product of the runs' weights

Nothing is gathered, nothing passes through a wider dtype unless numbers are added, and what a cell holds does not depend
on the box that is asked for.
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

from outgrow.algebra.linear import EMPTY, MEAN, LinearMap, Run, mean_along
from outgrow.algebra.noise import Box

RowReader = Callable[[slice | None], Tensor]
"""Rows of a source tensor; None for the mean of all its rows, as one row."""


@dataclass(frozen=True)
class Blocks:
    """A tensor's maps, each as runs: one tuple of runs per dimension."""

    dims: tuple[tuple[Run, ...], ...]

    @classmethod
    def of(cls, maps: Sequence[LinearMap]) -> Blocks | None:
        """The maps as runs, or None where one of them is none or has too many."""
        dims = []
        for map_ in maps:
            runs = None if map_.gather is None else map_.gather.runs
            if runs is None:
                return None
            dims.append(runs)
        return cls(tuple(dims))

    @cached_property
    def starts(self) -> tuple[list[int], ...]:
        """Where the runs of each dimension begin."""
        return tuple([run.start for run in runs] for runs in self.dims)

    def covered(self) -> tuple[list[tuple[int, int]], ...]:
        """The stretches of each dimension in which something is read."""
        return tuple([(run.start, run.stop) for run in runs if run.source != EMPTY] for runs in self.dims)

    def overlaps(self, other: Blocks) -> bool:
        """Whether some entry is read by both."""
        return all(
            any(max(a, c) < min(b, d) for a, b in mine for c, d in others)
            for mine, others in zip(self.covered(), other.covered(), strict=True)
        )

    def cells(self, box: Box) -> Iterator[tuple[Box, tuple[Run, ...]]]:
        """The cells in a box that read anything, and the run of each dimension."""
        cut = [
            [
                ((max(run.start, start), min(run.stop, stop)), run)
                for run in runs[bisect_right(begins, start) - 1 : bisect_right(begins, stop - 1)]
                if run.source != EMPTY
            ]
            if start < stop
            else []
            for runs, begins, (start, stop) in zip(self.dims, self.starts, box, strict=True)
        ]
        for chosen in product(*cut):
            yield tuple(place for place, _ in chosen), tuple(run for _, run in chosen)


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
    """Write a term into the box, or add it to what is there; `wide` is the dtype of means and sums."""
    for cell, runs in blocks.cells(box):
        target = within(out, box, cell)
        factor = coefficient * prod(run.weight for run in runs)
        if isinstance(part, float):
            target.add_(part * factor) if add else target.fill_(part * factor)
            continue
        source = _source(part, cell, runs, wide)
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


def _source(part: RowReader, cell: Box, runs: tuple[Run, ...], wide: torch.dtype) -> Tensor:
    """What the cell reads: a block of the source, with one unit in place of a dimension of which it holds the mean."""
    (first, last), head = cell[0], runs[0]
    block = part(
        None if head.source == MEAN else slice(head.behind(first), head.behind(first) + last - first)
    )
    for dim, ((start, stop), run) in enumerate(zip(cell[1:], runs[1:], strict=True), start=1):
        if run.source != MEAN:
            block = block.narrow(dim, run.behind(start), stop - start)
    for dim, run in enumerate(runs[1:], start=1):
        if run.source == MEAN:
            block = mean_along(block.to(wide), dim)
    return block

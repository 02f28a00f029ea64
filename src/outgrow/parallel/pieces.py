"""Which blocks of a whole tensor this process holds, and filling them from any source, a few rows at a time.

    local_blocks(tensor)   ((start, stop) per dimension, memory)      of a plain tensor: all of it

A source that computes its rows (`GrownView`) so grows straight into the shards of a larger model: nothing is gathered,
and resuming on another number of ranks is the same call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from outgrow.algebra.noise import Box
from outgrow.store.source import TensorSource

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement

LocalRun = tuple[int, int]

BLOCK_BYTES = 16 << 20


def is_cut(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is cut among processes. What tells costs a CPU-second to import, so a growth of files never asks."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local_blocks(tensor: Tensor) -> Iterator[tuple[Box, Tensor]]:
    """The blocks of the whole tensor that lie in this process, and the memory of each, which may be written to.

    A shard is one block, none where it is empty; strided ones may be several. A plain tensor is one.

    >>> [(box, memory.shape) for box, memory in local_blocks(torch.zeros(2, 3))]
    [(((0, 2), (0, 3)), torch.Size([2, 3]))]
    """
    if not is_cut(tensor):
        yield tuple((0, size) for size in tensor.shape), tensor.detach()
    elif tensor.device_mesh.get_coordinate() is not None:
        yield from blocks(held(tensor), local(tensor))


def blocks(held: Sequence[Tensor], memory: Tensor) -> Iterator[tuple[Box, Tensor]]:
    """The blocks of a whole tensor of which these units are held, dimension by dimension, and where each lies in the memory."""
    yield from _blocks([_runs(index) for index in held], (), memory)


def local(tensor: Tensor) -> Tensor:
    """The memory of a tensor in this process: all of a plain one, the shard of another."""
    plain = tensor.detach()
    return plain._local_tensor if is_cut(plain) else plain


def held(tensor: Tensor) -> list[Tensor]:
    """For each dimension the whole tensor's units that this process holds, int64, in the order of its memory."""
    if not is_cut(tensor):
        return [torch.arange(size) for size in tensor.shape]
    mesh, here = tensor.device_mesh, tensor.device_mesh.get_coordinate()
    assert here is not None, "a process outside of the mesh holds nothing"
    sizes = [mesh.size(dim) for dim in range(mesh.ndim)]
    found = [units(size, dim, tensor.placements, sizes, here) for dim, size in enumerate(tuple(tensor.shape))]
    got, expected = tuple(map(len, found)), tuple(local(tensor).shape)
    assert got == expected, f"{tensor.placements} hold {expected} of {tuple(tensor.shape)}, expected {got}"
    return found


def units(
    size: int, dim: int, placements: Sequence[Placement], mesh: Sequence[int], here: Sequence[int]
) -> Tensor:
    """The units of one dimension that the process at `here` on a mesh of these sizes holds, in the order of its memory.

    DTensor cuts by ceil(size / parts), mesh dimension by mesh dimension; a strided shard stands for a cut that was made
    after those to its right, so it is made inside each of their parts. Here the numbers of the units are cut so.

    >>> from torch.distributed.tensor import Shard
    >>> units(10, 0, [Shard(0)], [4], [3]), units(2, 0, [Shard(0)], [4], [3])
    (tensor([9]), tensor([], dtype=torch.int64))
    """
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    index = torch.arange(size)
    for place, count, mine in zip(placements, mesh, here, strict=True):
        if isinstance(place, _StridedShard) and place.dim == dim:
            split = int(place.split_factor)
            parts = [_cut(index, split, part) for part in range(split)]
            index = torch.cat([_cut(part, count, mine) for part in parts])
    for place, count, mine in zip(placements, mesh, here, strict=True):
        if type(place) is Shard and place.dim == dim:
            index = _cut(index, count, mine)
    return index


def _runs(index: Tensor) -> list[LocalRun]:
    """Numbers as stretches (start, stop)."""
    if not len(index):
        return []
    ends = [0, *((index.diff() != 1).nonzero().flatten() + 1).tolist(), len(index)]
    return [(int(index[first]), int(index[last - 1]) + 1) for first, last in pairwise(ends)]


def _cut(index: Tensor, parts: int, part: int) -> Tensor:
    size = -(-len(index) // parts)
    return index[part * size : (part + 1) * size]


def _blocks(runs: Sequence[Sequence[LocalRun]], box: Box, memory: Tensor) -> Iterator[tuple[Box, Tensor]]:
    dim, at = len(box), 0
    if dim == len(runs):
        yield box, memory
        return
    for start, stop in runs[dim]:
        yield from _blocks(runs, (*box, (start, stop)), memory.narrow(dim, at, stop - start))
        at += stop - start


@torch.no_grad()
def fill(
    source: TensorSource, name: str, slot: str, tensor: Tensor, *, block_bytes: int = BLOCK_BYTES
) -> None:
    """Copy what this process holds of `tensor` from a source, cast to its dtype; rows in blocks of at most `block_bytes`.

    The bits do not depend on how a tensor is cut: a source gives any box of it the same ones.
    """
    meta = source.meta(name, slot)
    assert meta.shape == tuple(tensor.shape), f"{slot} of {name}: {meta.shape} is not {tuple(tensor.shape)}"
    source.prepare((name,), slot)
    for box, memory in local_blocks(tensor):
        if not box:
            memory.copy_(source.read(name, slot))
            continue
        first, last = box[0]
        rows = max(1, block_bytes * meta.shape[0] // max(1, meta.bytes))
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            block = source.cut(name, slot, ((start, stop), *box[1:]))
            memory[start - first : stop - first].copy_(block)

"""Names to tensors, read lazily, per slot: the one way in which anything reads a training state.

A source answers three questions (which tensors, what shape, which rows) and hides where the bytes are:
in memory, in safetensors, in `optimizer.pt`, or computed on demand by `GrownView`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity

Rows = slice | Tensor | None
"""Rows of dimension 0: a slice, an int64 index, or None for all."""


def taken(tensor: Tensor, rows: Rows) -> Tensor:
    """These rows of a tensor in memory. Of an index, `index_select` copies several times as fast as `tensor[rows]`."""
    if rows is None:
        return tensor
    return tensor.index_select(0, rows) if isinstance(rows, Tensor) else tensor[rows]


@dataclass(frozen=True)
class TensorMeta:
    """Shape and dtype of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


class TensorSource(ABC):
    """Tensors by name and slot (those of `outgrow.algebra.slots.SLOTS`), read by rows."""

    @abstractmethod
    def names(self, slot: str) -> tuple[str, ...]:
        """The tensors that this slot holds; empty where the state has no such slot."""

    @abstractmethod
    def meta(self, name: str, slot: str) -> TensorMeta:
        """Shape and dtype, without reading."""

    @abstractmethod
    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        """The tensor, or the given rows of its dimension 0. The result may share memory: do not write to it."""

    def files(self) -> frozenset[FileIdentity]:
        """The files that are read, as they were when they were opened; none for tensors in memory."""
        return frozenset()

    def cut(self, name: str, slot: str, box: tuple[tuple[int, int], ...]) -> Tensor:
        """A box of a tensor, (start, stop) per dimension: here whole rows, cut afterwards."""
        rows, *others = (slice(*run) for run in box)
        return self.read(name, slot, rows)[(slice(None), *others)]

    def prepare(self, names: Collection[str], slot: str) -> None:  # noqa: B027  # most sources have it all
        """Called before rows of these tensors are read, by all processes together: what lies elsewhere can be brought."""

    def groups(self, slot: str) -> tuple[tuple[str, ...], ...]:
        """Names with the same contents, which a writer reads once and writes to all; every name alone by default."""
        return tuple((name,) for name in self.names(slot))


@dataclass(frozen=True)
class MemorySource(TensorSource):
    """Tensors held in memory: `{slot: {name: tensor}}`.

    >>> source = MemorySource({"weight": {"w": torch.arange(6.0).view(3, 2)}})
    >>> source.read("w", "weight", slice(2, 3)).tolist()
    [[4.0, 5.0]]
    """

    tensors: Mapping[str, Mapping[str, Tensor]]

    def names(self, slot: str) -> tuple[str, ...]:
        return tuple(self.tensors.get(slot, {}))

    def meta(self, name: str, slot: str) -> TensorMeta:
        tensor = self.tensors[slot][name]
        return TensorMeta(tuple(tensor.shape), tensor.dtype)

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        tensor = self.tensors[slot][name].detach()
        if tensor.is_meta:
            fix = "load the weights first; of a model that is offloaded, open the folder that it came from"
            raise CheckpointError(f"{slot} of {name} holds no numbers: it is on the meta device", fix=fix)
        return taken(tensor, rows)

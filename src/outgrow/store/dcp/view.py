"""A state's tensors as a trainer keeps them in a DCP folder: its keys, its order of rows, in chunks; computed when they are read.

A chunk is a few rows: whoever loads the folder on other ranks reads whole chunks, so small ones waste little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.store.dcp.naming import Address, Naming
from outgrow.store.source import Rows, TensorMeta, TensorSource

CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Assembly:
    """One tensor of the folder: made of one tensor of the state, or of the rows of several."""

    key: str
    meta: TensorMeta
    names: tuple[str, ...]
    owner: Tensor | None = None
    """int64: which of `names` each row is of; None where there is one."""
    row: Tensor | None = None
    """int64: which of its rows; None where the order is the same."""


@dataclass(frozen=True, eq=False)
class ChunkOf:
    """Rows `start` to `stop` of one tensor of the folder."""

    assembly: Assembly
    start: int
    stop: int

    @property
    def offsets(self) -> tuple[int, ...]:
        shape = self.assembly.meta.shape
        return (self.start, *(0 for _ in shape[1:])) if shape else ()

    @property
    def meta(self) -> TensorMeta:
        whole = self.assembly.meta
        return TensorMeta((self.stop - self.start, *whole.shape[1:]) if whole.shape else (), whole.dtype)


@dataclass(frozen=True)
class FolderView(TensorSource):
    """Chunks by slot and name, `KEY@FIRST_ROW`."""

    source: TensorSource
    chunks: Mapping[str, Mapping[str, ChunkOf]]

    def names(self, slot: str) -> tuple[str, ...]:
        return tuple(self.chunks.get(slot, {}))

    def files(self) -> frozenset[FileIdentity]:
        return self.source.files()

    def meta(self, name: str, slot: str) -> TensorMeta:
        return self.chunks[slot][name].meta

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        chunk = self.chunks[slot][name]
        made = chunk.assembly
        if not made.meta.shape:
            return self.source.read(made.names[0], slot)
        asked = rows if isinstance(rows, slice) else slice(None)
        start, stop, step = asked.indices(chunk.stop - chunk.start)
        assert not isinstance(rows, Tensor), "a chunk is written in stretches"
        assert step == 1, "a chunk is written in stretches"
        here = slice(chunk.start + start, chunk.start + stop)
        if made.row is None:
            return self.source.read(made.names[0], slot, here)
        if made.owner is None:
            return self.source.read(made.names[0], slot, made.row[here])
        out = torch.empty((stop - start, *made.meta.shape[1:]), dtype=made.meta.dtype)
        owner, row = made.owner[here], made.row[here]
        for number, owned in enumerate(made.names):
            mine = (owner == number).nonzero().flatten()
            if len(mine):
                out[mine] = self.source.read(owned, slot, row[mine])
        return out

    def groups(self, slot: str) -> tuple[tuple[str, ...], ...]:
        same = {name: number for number, group in enumerate(self.source.groups(slot)) for name in group}
        groups: dict[object, list[str]] = {}
        for name, chunk in self.chunks.get(slot, {}).items():
            made = chunk.assembly
            plain = made.row is None
            key: object = (same[made.names[0]], chunk.start, chunk.stop) if plain else name
            groups.setdefault(key, []).append(name)
        return tuple(tuple(group) for group in groups.values())


def folder_view(
    table: Naming,
    addresses: Mapping[str, Address],
    owners: Mapping[str, str],
    source: TensorSource,
    slots: tuple[str, ...],
) -> FolderView:
    """The tensors of `slots` under a trainer's keys. `owners`: further names of tied weights, which are written too."""
    chunks: dict[str, dict[str, ChunkOf]] = {}
    for slot in slots:
        held = set(source.names(slot))
        for made in _assemblies(table, addresses, owners, source, slot, held):
            rows = made.meta.shape[0] if made.meta.shape else 1
            step = max(1, CHUNK_BYTES * rows // max(1, made.meta.bytes))
            for start in range(0, rows, step):
                chunk = ChunkOf(made, start, min(start + step, rows))
                chunks.setdefault(slot, {})[f"{made.key}@{start}"] = chunk
    return FolderView(source, chunks)


def _assemblies(
    table: Naming,
    addresses: Mapping[str, Address],
    owners: Mapping[str, str],
    source: TensorSource,
    slot: str,
    held: set[str],
) -> list[Assembly]:
    parts: dict[str, list[tuple[str, Address]]] = {}
    for name, one in addresses.items():
        owner = owners.get(name, name)
        if owner in held and (slot == "weight" or name == owner):
            pattern = table.weight if slot == "weight" else table.state
            parts.setdefault(pattern.format(key=one.key, slot=slot), []).append((owner, one))
    return [_assembly(key, found, source, slot) for key, found in parts.items()]


def _assembly(key: str, parts: list[tuple[str, Address]], source: TensorSource, slot: str) -> Assembly:
    names = tuple(name for name, _ in parts)
    metas = [source.meta(name, slot) for name in names]
    if all(one.rows is None for _, one in parts):
        assert len(parts) == 1, f"{key} is made of {names}, and nothing says which rows are whose"
        return Assembly(key, metas[0], names)
    if SLOTS[slot].mean_over is not None:
        raise CheckpointError(
            f"{slot} of {names[0]} is a factor, and this trainer orders rows otherwise",
            fix="use AdamW, or native",
        )
    total = sum(meta.shape[0] for meta in metas)
    owner, row = torch.empty(total, dtype=torch.int64), torch.empty(total, dtype=torch.int64)
    for number, (_, one) in enumerate(parts):
        assert one.rows is not None
        owner[one.rows], row[one.rows] = number, torch.arange(len(one.rows))
    meta = TensorMeta((total, *metas[0].shape[1:]), metas[0].dtype)
    assert prod(meta.shape) == sum(prod(one.shape) for one in metas)
    return Assembly(key, meta, names, owner if len(parts) > 1 else None, row)

"""Tensors of a model inside DCP folders, whatever a trainer calls them and in whatever order it keeps their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from outgrow.files.identity import FileIdentity
from outgrow.store.dcp.folder import DcpFolder, Keyed
from outgrow.store.source import Rows, TensorMeta, TensorSource


@dataclass(frozen=True, eq=False)
class DcpPlace:
    """Where a tensor lies: a key of a folder, there one layer of a stack, and there the rows that are this tensor's."""

    folder: Keyed
    key: str
    layer: int | None = None
    rows: Tensor | None = None
    """int64: row i of the tensor is row `rows[i]` of the file; None where they are the same."""

    @property
    def meta(self) -> TensorMeta:
        """Shape and dtype of the tensor."""
        stored = self.folder.meta(self.key)
        shape = stored.shape if self.layer is None else stored.shape[1:]
        count = shape[:1] if self.rows is None else (len(self.rows),)
        return TensorMeta((*count, *shape[1:]), stored.dtype)

    def read(self, rows: Rows = None) -> Tensor:
        """The tensor or some of its rows."""
        if self.rows is not None:
            rows = self.rows if rows is None else self.rows[rows]
            if len(rows) and bool((rows.diff() == 1).all()):  # a stretch of the file: mapped, not copied
                rows = slice(int(rows[0]), int(rows[-1]) + 1)
        if self.layer is None:
            return self.folder.read(self.key, rows)
        one: Tensor = self.folder.read(self.key, slice(self.layer, self.layer + 1))[0]
        return one if rows is None else one[rows]


@dataclass(frozen=True)
class DcpSource(TensorSource):
    """`places`: slot, then name, to the place of the tensor."""

    places: Mapping[str, Mapping[str, DcpPlace]]

    @classmethod
    def plain(cls, folder: Keyed, keys: Mapping[str, Mapping[str, str]]) -> DcpSource:
        """Tensors that a folder keeps as they are, under its own keys: slot, then name, to key."""
        return cls(
            {
                slot: {name: DcpPlace(folder, key) for name, key in named.items()}
                for slot, named in keys.items()
            }
        )

    def names(self, slot: str) -> tuple[str, ...]:
        return tuple(self.places.get(slot, {}))

    def files(self) -> frozenset[FileIdentity]:
        folders = {id(one.folder): one.folder for named in self.places.values() for one in named.values()}
        mapped = (folder for folder in folders.values() if isinstance(folder, DcpFolder))
        return frozenset(one for folder in mapped for one in folder.identities())

    def meta(self, name: str, slot: str) -> TensorMeta:
        return self.places[slot][name].meta

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        return self.places[slot][name].read(rows)


def row_order(text: str, sizes: Mapping[str, int]) -> Tensor:
    """Which rows of the file a tensor has, in its own order: int64.

    `"A B as B A"`: the file orders its rows by A, then B, the model by B, then A. `"A ( B | =C | D )"`: for every A the
    file has B rows of another tensor, C of this one and D of a third. A word is an axis of the architecture file, a
    number, or an axis divided by one.

    >>> row_order("heads dim/2 2 as heads 2 dim/2", {"heads": 1, "dim": 4}).tolist()
    [0, 2, 1, 3]
    >>> row_order("kv ( group dim | =dim | dim )", {"kv": 2, "group": 2, "dim": 1}).tolist()
    [2, 6]
    """
    file, _, model = text.partition(" as ")
    if "(" in file:
        outer, _, inner = file.rstrip(" )").partition("(")
        parts = inner.split("|")
        counts = [_product(part.replace("=", "").split(), sizes) for part in parts]
        mine = next(number for number, part in enumerate(parts) if "=" in part)
        rows = torch.arange(_product(outer.split(), sizes) * sum(counts)).view(-1, sum(counts))
        return rows[:, sum(counts[:mine]) : sum(counts[: mine + 1])].reshape(-1)
    words = file.split()
    rows = torch.arange(_product(words, sizes)).view([_size(word, sizes) for word in words])
    return rows.permute([words.index(word) for word in model.split()]).reshape(-1)


def _product(words: list[str], sizes: Mapping[str, int]) -> int:
    count = 1
    for word in words:
        count *= _size(word, sizes)
    return count


def _size(word: str, sizes: Mapping[str, int]) -> int:
    name, _, divisor = word.partition("/")
    return (int(name) if name.isdigit() else sizes[name]) // int(divisor or 1)

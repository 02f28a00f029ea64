"""A DCP folder by its own keys: tensors mapped into memory and read by rows, values loaded without any pickle being run.

Every chunk is a zip of `torch.save`, stored and not deflated: its numbers lie in one stretch of the file, and only the
pages of the rows that are asked for are touched, however many ranks wrote the folder.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.store.dcp.metadata import Chunk, Item, read_metadata
from outgrow.store.pickled import load_fake, load_plain_bytes
from outgrow.store.safetensors_file import MappedFile
from outgrow.store.source import Rows, TensorMeta


class Keyed(Protocol):
    """Tensors and small values by key."""

    @property
    def keys(self) -> frozenset[str]:
        """The names of everything there is."""

    def is_tensor(self, key: str) -> bool:
        """Whether a key is there and names a tensor."""

    def meta(self, key: str) -> TensorMeta:
        """Shape and dtype of a tensor."""

    def read(self, key: str, rows: Rows = None) -> Tensor:
        """A tensor or some of its rows."""

    def value(self, key: str) -> Any:
        """A small value: numbers, text and containers."""


@dataclass(frozen=True)
class PlainFolder:
    """The same where a file of torch.save holds everything, mapped."""

    path: Path
    values: Mapping[str, Any]

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self.values)

    def is_tensor(self, key: str) -> bool:
        return isinstance(self.values.get(key), Tensor)

    def meta(self, key: str) -> TensorMeta:
        return TensorMeta(tuple(self.values[key].shape), self.values[key].dtype)

    def read(self, key: str, rows: Rows = None) -> Tensor:
        tensor: Tensor = self.values[key]
        return tensor if rows is None else tensor[rows]

    def value(self, key: str) -> Any:
        return self.values[key]


@dataclass(frozen=True)
class DcpFolder:
    """The tensors and values of a DCP folder."""

    path: Path
    items: Mapping[str, Item]
    _files: dict[str, MappedFile] = field(default_factory=dict, repr=False)
    _views: dict[Chunk, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path) -> DcpFolder:
        """Open a folder; what it promises is checked, no tensor is read."""
        return cls(path, read_metadata(path))

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self.items)

    def meta(self, key: str) -> TensorMeta:
        meta = self.items[key].meta
        if meta is None:
            raise CheckpointError(f"{key} in {self.path} is no tensor")
        return meta

    def is_tensor(self, key: str) -> bool:
        return key in self.items and self.items[key].meta is not None

    def read(self, key: str, rows: Rows = None) -> Tensor:
        """A tensor or some of its rows; a view of the mapped file where one chunk has them all."""
        meta, chunks = self.meta(key), self.items[key].chunks
        if not meta.shape:
            return self._view(chunks[0], meta)
        if isinstance(rows, Tensor):
            return self._gathered(chunks, meta, rows)
        start, stop, step = (rows or slice(None)).indices(meta.shape[0])
        if step != 1:
            return self._gathered(chunks, meta, torch.arange(start, max(start, stop), step))
        return self._stretch(chunks, meta, start, max(start, stop))

    def value(self, key: str) -> Any:
        """A small value: numbers, text and containers, loaded with `weights_only`."""
        (chunk,) = self.items[key].chunks
        return load_plain_bytes(bytes(self._bytes(chunk).numpy()), f"{key} in {self.path}")

    def _stretch(self, chunks: tuple[Chunk, ...], meta: TensorMeta, start: int, stop: int) -> Tensor:
        touched = [one for one in chunks if one.offsets[0] < stop and one.offsets[0] + one.sizes[0] > start]
        if len(touched) == 1 and touched[0].sizes[1:] == meta.shape[1:]:
            view, first = self._view(touched[0], meta), touched[0].offsets[0]
            return view[start - first : stop - first]
        out = torch.empty((stop - start, *meta.shape[1:]), dtype=meta.dtype)
        for one in touched:
            first, last = max(start, one.offsets[0]), min(stop, one.offsets[0] + one.sizes[0])
            part = self._view(one, meta)[first - one.offsets[0] : last - one.offsets[0]]
            _box(out, one)[first - start : last - start].copy_(part)
        return out

    def _gathered(self, chunks: tuple[Chunk, ...], meta: TensorMeta, rows: Tensor) -> Tensor:
        out = torch.empty((len(rows), *meta.shape[1:]), dtype=meta.dtype)
        if not len(rows):
            return out
        low, high = int(rows.min()), int(rows.max())
        for one in chunks:
            first, last = one.offsets[0], one.offsets[0] + one.sizes[0]
            if first > high or last <= low:
                continue
            here = ((rows >= first) & (rows < last)).nonzero().flatten()
            _box(out, one)[here] = self._view(one, meta)[rows[here] - first]
        return out

    def identities(self) -> Iterator[FileIdentity]:
        """The files that were read so far, as they were when they were opened."""
        return (file.identity for file in self._files.values())

    def _bytes(self, chunk: Chunk) -> Tensor:
        file = self._files.setdefault(chunk.file, MappedFile(self.path / chunk.file))
        return file.bytes[chunk.start : chunk.start + chunk.length]

    def _view(self, chunk: Chunk, meta: TensorMeta) -> Tensor:
        """The numbers of a chunk, mapped: loaded as a fake tensor, they say where they lie and how."""
        if chunk not in self._views:
            self._views[chunk] = self._mapped(chunk, meta)
        return self._views[chunk]

    def _mapped(self, chunk: Chunk, meta: TensorMeta) -> Tensor:
        data = self._bytes(chunk)
        what = f"{self.path / chunk.file}, at byte {chunk.start},"
        fake = load_fake(io.BufferedReader(_Window(data)), what)
        if not isinstance(fake, Tensor):
            raise self._damaged(chunk, type(fake).__name__)
        storage = cast(Any, fake).untyped_storage()
        begin, size = int(storage._checkpoint_offset), storage.nbytes()
        last = fake.storage_offset() + sum(
            (n - 1) * stride for n, stride in zip(fake.shape, fake.stride(), strict=True)
        )
        if tuple(fake.shape) != chunk.sizes or fake.dtype != meta.dtype:
            raise self._damaged(chunk, f"{tuple(fake.shape)} {fake.dtype}")
        if begin + size > len(data) or (last + 1) * fake.itemsize > size:
            raise self._damaged(chunk, "numbers outside its bytes")
        numbers = data[begin : begin + size]
        if (chunk.start + begin) % fake.itemsize:
            numbers = numbers.clone()
        numbers = numbers.view(fake.dtype)
        start = numbers.storage_offset() + fake.storage_offset()
        return numbers.as_strided(fake.shape, fake.stride(), start)

    def _damaged(self, chunk: Chunk, got: str) -> CheckpointError:
        what = f"{self.path / chunk.file} is damaged at byte {chunk.start}"
        return CheckpointError(what, got=got, expected=f"a tensor of {chunk.sizes}", fix="copy it again")


def _box(out: Tensor, chunk: Chunk) -> Tensor:
    """The columns of `out` that a chunk holds."""
    for dim, (at, size) in enumerate(zip(chunk.offsets[1:], chunk.sizes[1:], strict=True), start=1):
        out = out.narrow(dim, at, size)
    return out


class _Window(io.RawIOBase):
    """Mapped bytes as a file: nothing is copied but what is asked for."""

    def __init__(self, data: Tensor) -> None:
        self.data, self.at = memoryview(cast(Any, data.numpy())), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = 0) -> int:
        self.at = max(0, to + (0, self.at, len(self.data))[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        part = self.data[self.at : self.at + len(buffer)]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)

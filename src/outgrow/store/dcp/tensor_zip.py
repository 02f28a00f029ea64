"""A tensor as torch.save writes it, around numbers that are written elsewhere: a zip of one record, stored and not deflated.

head | numbers | tail            head and tail say the CRC-32 of the numbers, so they are written after them
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from outgrow.store.source import TensorMeta

_STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}
_ALIGNMENT = 64
MOST_BYTES = 1 << 31
"""Far below the 4 GiB from where a zip needs 64-bit fields."""


@dataclass(frozen=True)
class TensorZip:
    """The zip of one tensor, that begins at byte `start` of its file."""

    meta: TensorMeta
    start: int

    @cached_property
    def data_start(self) -> int:
        """Where in the file the numbers begin."""
        return self.start + len(self.head(0))

    @cached_property
    def length(self) -> int:
        """Bytes of the whole zip."""
        return len(self.head(0)) + self.meta.bytes + len(self.tail(0))

    def head(self, crc: int) -> bytes:
        """What stands before the numbers; it ends where they are aligned in the file."""
        before = b"".join(_local(name, zlib.crc32(text), len(text)) + text for name, text in self._small)
        name, size = "archive/data/0", self.meta.bytes
        unpadded = self.start + len(before) + len(_local(name, crc, size)) + 4
        return before + _local(name, crc, size, padding=-unpadded % _ALIGNMENT)

    def tail(self, crc: int) -> bytes:
        """The zip's directory."""
        at, entries = 0, []
        for name, text in self._small:
            entries.append(_central(name, zlib.crc32(text), len(text), at))
            at += len(_local(name, 0, 0)) + len(text)
        entries.append(_central("archive/data/0", crc, self.meta.bytes, at))
        directory = b"".join(entries)
        begin = len(self.head(0)) + self.meta.bytes
        end = struct.pack(
            "<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), begin, 0
        )
        return directory + end

    @cached_property
    def _small(self) -> tuple[tuple[str, bytes], ...]:
        return (
            ("archive/data.pkl", _outline(self.meta)),
            ("archive/byteorder", b"little"),
            ("archive/version", b"3\n"),
        )


def _local(name: str, crc: int, size: int, *, padding: int | None = None) -> bytes:
    extra = b"" if padding is None else struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    fields = (b"PK\x03\x04", 0, 0, 0, 0, 0, crc, size, size, len(name), len(extra))
    return struct.pack("<4sHHHHHIIIHH", *fields) + name.encode() + extra


def _central(name: str, crc: int, size: int, at: int) -> bytes:
    fields = (b"PK\x01\x02", 0, 0, 0, 0, 0, 0, crc, size, size, len(name), 0, 0, 0, 0, 0, at)
    return struct.pack("<4sHHHHHHIIIHHHHHII", *fields) + name.encode()


def _outline(meta: TensorMeta) -> bytes:
    """The pickle that torch.load rebuilds a contiguous tensor from."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(_Outline(meta))
    return file.getvalue()


@dataclass(frozen=True)
class _Storage:
    meta: TensorMeta


@dataclass(frozen=True)
class _Outline:
    meta: TensorMeta

    def __reduce__(self) -> tuple[Any, ...]:
        strides, step = [], 1
        for size in reversed(self.meta.shape):
            strides.append(step)
            step *= size
        hooks: OrderedDict[str, Any] = OrderedDict()
        made = (_Storage(self.meta), 0, self.meta.shape, tuple(reversed(strides)), False, hooks)
        return torch._utils._rebuild_tensor_v2, made


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        count = value.meta.bytes // value.meta.dtype.itemsize
        return ("storage", _STORAGES[value.meta.dtype], "0", "cpu", count)

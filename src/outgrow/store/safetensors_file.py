"""One safetensors file: its header checked in full, its tensors mapped into memory and read only when asked.

A file is an 8-byte little-endian header length, a JSON header `name -> dtype, shape, [begin, end)`, and the bytes.
The tensors must fill the file without gaps or overlaps, so a wrong, cut or padded file is found before any byte is used.
"""

from __future__ import annotations

import errno
import json
import mmap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.files.reading import check_regular, unique_keys
from outgrow.store.source import Rows, TensorMeta, taken

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # the limit of the reference implementation


class MappedFile:
    """The bytes of a file as a lazily mapped uint8 tensor; nothing is read until it is touched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity = FileIdentity.of(path)

    @cached_property
    def bytes(self) -> Tensor:
        try:
            with open(self.path, "rb") as file:
                self.identity.check(file.fileno())
                try:
                    mapped = mmap.mmap(
                        file.fileno(), 0, access=mmap.ACCESS_COPY
                    )  # private: a stray write hurts no file
                except OSError as error:
                    if error.errno != errno.ENOMEM:
                        raise
                    mapped = mmap.mmap(
                        file.fileno(), 0, access=mmap.ACCESS_READ
                    )  # larger than memory and swap
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read", got=error) from error
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            return torch.frombuffer(mapped, dtype=torch.uint8)


@dataclass(frozen=True)
class Entry:
    """A tensor inside a file: where its bytes start, its shape and dtype."""

    file: MappedFile
    start: int
    meta: TensorMeta

    def read(self, rows: Rows = None) -> Tensor:
        """The tensor or some rows; a view of the mapped file where alignment allows it."""
        self.file.identity.check()
        stop = self.start + self.meta.bytes
        data, shape, first = self.file.bytes, self.meta.shape, self.start
        if isinstance(rows, slice) and shape:
            begin, end, step = rows.indices(shape[0])
            if step == 1:
                row = self.meta.bytes // shape[0] if shape[0] else 0
                first, stop = self.start + begin * row, self.start + max(begin, end) * row
                shape, rows = (max(end - begin, 0), *shape[1:]), None
        view = data[first:stop]
        if first % self.meta.dtype.itemsize:
            view = view.clone()
        tensor = view.view(self.meta.dtype).view(shape)
        return taken(tensor, rows)


@dataclass(frozen=True)
class Header:
    """The parsed header of one file."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Parse and check the header of a safetensors file.

    Raises `CheckpointError` for anything that is not exactly a whole safetensors file.
    """
    fix = "copy or download the file again"
    check_regular(path, CheckpointError)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise CheckpointError(
                    f"{path} is truncated or not a safetensors file",
                    got=f"{size} bytes, header of {length}",
                    fix=fix,
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", got=error.strerror) from error
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
        if not isinstance(header, dict):
            raise ValueError("not a JSON object")
        metadata = header.pop("__metadata__", {})
        mapped, start = MappedFile(path), 8 + length
        entries = {name: _entry(mapped, start, name, value) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path} has a corrupt header", got=error, fix=fix) from error
    _check_offsets(path, entries, start, size, fix)
    return Header(entries, metadata if isinstance(metadata, dict) else {}, start)


def header_bytes(
    tensors: Sequence[tuple[str, TensorMeta]], metadata: Mapping[str, str]
) -> tuple[bytes, list[int]]:
    """The head of a file that holds `tensors` in this order, and the file offset of each.

    >>> head, offsets = header_bytes([("w", TensorMeta((2, 3), torch.float32))], {"format": "pt"})
    >>> offsets == [len(head)], len(head) % 8
    (True, 0)
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin, begins = 0, []
    for name, meta in tensors:
        if meta.dtype not in DTYPE_NAMES:
            raise CheckpointError(
                f"{name}: safetensors cannot hold {meta.dtype}", expected=", ".join(map(str, DTYPE_NAMES))
            )
        offsets = [begin, begin + meta.bytes]
        header[name] = {"dtype": DTYPE_NAMES[meta.dtype], "shape": list(meta.shape), "data_offsets": offsets}
        begins.append(begin)
        begin += meta.bytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    head = len(raw).to_bytes(8, "little") + raw
    return head, [len(head) + begin for begin in begins]


def _entry(file: MappedFile, data_start: int, name: str, value: dict[str, Any]) -> Entry:
    if value["dtype"] not in DTYPES:
        raise ValueError(f"{name} has the unknown dtype {value['dtype']!r}")
    shape, (begin, end) = value["shape"], value["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has the shape {shape} and offsets [{begin}, {end}]")
    meta = TensorMeta(tuple(shape), DTYPES[value["dtype"]])
    if prod(meta.shape) * meta.dtype.itemsize != end - begin:
        raise ValueError(f"{name} of shape {shape} and {value['dtype']} does not take {end - begin} bytes")
    return Entry(file, data_start + begin, meta)


def _check_offsets(path: Path, entries: Mapping[str, Entry], start: int, size: int, fix: str) -> None:
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].meta.bytes)):
        if entry.start != position:
            raise CheckpointError(f"{path} has a corrupt header: {name} leaves a gap or overlaps", fix=fix)
        position += entry.meta.bytes
    if position != size:
        what = "is truncated" if position > size else "has bytes after its last tensor"
        raise CheckpointError(f"{path} {what}", got=f"{size} bytes", expected=f"{position} bytes", fix=fix)

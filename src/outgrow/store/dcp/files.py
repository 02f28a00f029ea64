"""The files of a DCP folder, planned before a number is known: which chunk lies where in which `.distcp`, and `.metadata`."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outgrow.store.dcp.tensor_zip import MOST_BYTES, TensorZip
from outgrow.store.dcp.view import FolderView
from outgrow.store.writer import FilePlan, Key, write_all

_ALIGNMENT = 64


@dataclass(frozen=True)
class Value:
    """A small value, or a tensor of a few numbers, with its path in the trainer's own nested state."""

    path: tuple[str | int, ...]
    content: Any

    @property
    def key(self) -> str:
        return ".".join(map(str, self.path))


@dataclass(frozen=True)
class FolderPlan:
    """Where everything goes in one DCP folder."""

    name: str
    """The folder's name inside the checkpoint; "" for the checkpoint itself."""
    view: FolderView
    files: tuple[FilePlan, ...]
    zips: Mapping[Key, tuple[int, TensorZip]]
    """Chunk to the number of its file and its zip there."""
    values: tuple[Value, ...]
    paths: Mapping[str, tuple[str | int, ...]]
    """Every tensor's path in the trainer's nested state."""

    @property
    def bytes(self) -> int:
        """To be written, a little more than it will be."""
        return sum(one.size for one in self.files) + 3000 * len(self.values) + 300 * len(self.zips) + 4096


def plan_folder(
    name: str,
    view: FolderView,
    values: tuple[Value, ...],
    paths: Mapping[str, tuple[str | int, ...]],
    shard_bytes: int,
) -> FolderPlan:
    """Chunks in files of at most `shard_bytes`; a file more holds the small values."""
    zips: dict[Key, tuple[int, TensorZip]] = {}
    sizes = [0]
    for slot, chunks in view.chunks.items():
        for chunk_name, chunk in chunks.items():
            assert chunk.meta.bytes < MOST_BYTES, f"one row of {chunk.assembly.key} is larger than 2 GiB"
            if sizes[-1] and sizes[-1] + chunk.meta.bytes > shard_bytes:
                sizes.append(0)
            one = TensorZip(chunk.meta, sizes[-1])
            zips[slot, chunk_name] = (len(sizes) - 1, one)
            sizes[-1] += one.length + -one.length % _ALIGNMENT
    files = []
    prefix = f"{name}/" if name else ""
    for number, size in enumerate(sizes):
        offsets = {key: one.data_start for key, (file, one) in zips.items() if file == number}
        if offsets:
            files.append(FilePlan(f"{prefix}__{number}_0.distcp", size, b"", offsets))
    return FolderPlan(name, view, tuple(files), zips, values, paths)


def seal(folder: Path, plan: FolderPlan, checksums: Mapping[Key, int]) -> None:
    """Write what stands around the numbers, the small values, and `.metadata`, which is last and makes the folder whole."""
    place = folder / plan.name
    place.mkdir(exist_ok=True)
    handles = {number: os.open(folder / one.name, os.O_RDWR) for number, one in _numbered(plan).items()}
    try:
        for key, (number, one) in plan.zips.items():
            write_all(handles[number], memoryview(one.head(checksums[key])), one.start)
            end = one.data_start + one.meta.bytes
            write_all(handles[number], memoryview(one.tail(checksums[key])), end)
    finally:
        for handle in handles.values():
            os.close(handle)
    last = f"__{len(plan.files)}_0.distcp"
    blobs = _blobs(plan.values)
    (place / last).write_bytes(b"".join(blobs.values()))
    (place / ".metadata").write_bytes(pickle.dumps(_metadata(plan, blobs, last)))


def _numbered(plan: FolderPlan) -> dict[int, FilePlan]:
    return dict(enumerate(plan.files))


def _blobs(values: tuple[Value, ...]) -> dict[str, bytes]:
    found = {}
    for value in values:
        file = io.BytesIO()
        torch.save(value.content, file)
        found[value.key] = file.getvalue()
    return found


def _metadata(plan: FolderPlan, blobs: Mapping[str, bytes], last: str) -> Any:
    """torch's own description of the folder, which every DCP reader opens."""
    from torch.distributed.checkpoint import metadata as dcp
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    entries: dict[str, Any] = {}
    stored: dict[Any, Any] = {}
    for (slot, name), (number, one) in plan.zips.items():
        chunk = plan.view.chunks[slot][name]
        key, meta = chunk.assembly.key, chunk.assembly.meta
        whole = entries.setdefault(
            key,
            dcp.TensorStorageMetadata(dcp.TensorProperties(dtype=meta.dtype), torch.Size(meta.shape), []),
        )
        offsets = torch.Size(chunk.offsets)
        whole.chunks.append(dcp.ChunkStorageMetadata(offsets, torch.Size(chunk.meta.shape)))
        file = Path(plan.files[number].name).name
        stored[dcp.MetadataIndex(key, offsets, len(whole.chunks) - 1)] = _StorageInfo(
            file, one.start, one.length
        )
    at = 0
    for value in plan.values:
        content, key = value.content, value.key
        if isinstance(content, torch.Tensor):
            chunk_meta = dcp.ChunkStorageMetadata(torch.Size([0] * content.dim()), content.shape)
            properties = dcp.TensorProperties.create_from_tensor(content)
            entries[key] = dcp.TensorStorageMetadata(properties, content.shape, [chunk_meta])
            index = dcp.MetadataIndex(key, chunk_meta.offsets, 0)
        else:
            entries[key], index = dcp.BytesStorageMetadata(), dcp.MetadataIndex(key)
        stored[index] = _StorageInfo(last, at, len(blobs[key]))
        at += len(blobs[key])
    paths = {**plan.paths, **{value.key: value.path for value in plan.values}}
    return dcp.Metadata(state_dict_metadata=entries, planner_data=paths, storage_data=stored)

"""A run's sharded checkpoint: tensors by torch.distributed.checkpoint, and beside them the JSON files of a native state.

    .metadata, *.distcp     model.<name>, optimizer.state.<name>.<slot>
    optimizer.json ...      as `store/native.py` has them; outgrow.json last: a folder without it is unfinished

`.metadata` is a pickle: it is read as data, and nothing that it names is imported or called.
"""

from __future__ import annotations

import io
import pickle
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from outgrow.algebra.slots import MOMENTS
from outgrow.errors import CheckpointError
from outgrow.files.atomic import json_text, sync_path, sync_tree
from outgrow.models.library import named_shapes
from outgrow.state.training_state import TrainingState
from outgrow.store import native
from outgrow.store.config_file import load_config, read_json
from outgrow.store.contents import OptimizerInfo
from outgrow.store.pickled import record_text, record_value
from outgrow.store.safetensors_file import MappedFile
from outgrow.store.source import Rows, TensorMeta, TensorSource

METADATA = ".metadata"


def tensor_key(name: str, slot: str) -> str:
    """What the checkpoint calls a tensor: as accelerate's and torchtitan's do."""
    return f"model.{name}" if slot == "weight" else f"optimizer.state.{name}.{slot}"


def seal(folder: Path, state: TrainingState) -> None:
    """Write what belongs beside the tensors of a checkpoint, the manifest last."""
    assert state.optimizer is not None, "a run has an optimizer"
    for asset in state.assets:
        shutil.copyfile(asset, folder / asset.name)
    texts = {"config": json_text(state.config)}
    texts["optimizer"] = json_text({**state.optimizer.to_json(), "steps": state.steps})
    texts |= {name: record_text(name, record) for name, record in state.records.items()}
    for name, text in texts.items():
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    files = {}
    for path in folder.iterdir():
        crc = 0 if path.suffix == ".distcp" else zlib.crc32(path.read_bytes())
        files[path.name] = (path.stat().st_size, crc)
    step = int(state.records["run"]["step"])
    content = native.manifest(state.config, state.lineage, state.records, step, files) | {"tensors": "dcp"}
    native_path = folder / native.MANIFEST
    unfinished = native_path.with_suffix(".unfinished")
    unfinished.write_text(json_text(content), encoding="utf-8")
    sync_tree(folder)
    unfinished.rename(native_path)
    sync_path(folder)


def open_saved(folder: Path) -> TrainingState:
    """A checkpoint of a run, sharded or native; files, names and shapes are checked first. Raises CheckpointError."""
    if not (folder / METADATA).exists():
        return TrainingState.from_pretrained(folder)
    if not (folder / native.MANIFEST).is_file():
        raise CheckpointError(f"{folder} is an unfinished state: it has no {native.MANIFEST}")
    content, config = read_json(folder / native.MANIFEST), load_config(folder)
    for name, entry in content["files"].items():
        path = folder / name
        got = path.stat().st_size if path.is_file() else None
        if got != entry["bytes"]:
            raise CheckpointError(
                f"{path} is {'missing' if got is None else 'not as it was written'}",
                got=got,
                expected=f"{entry['bytes']} bytes",
                fix="copy the folder again with the files of every rank, or resume from an earlier checkpoint",
            )
    optimizer = read_json(folder / "optimizer.json")
    source = SavedSource.open(folder, named_shapes(config))
    return TrainingState(
        config,
        source,
        {str(name): float(step) for name, step in optimizer["steps"].items()},
        OptimizerInfo.from_json(optimizer),
        {name: record_value(read_json(folder / f"{name}.json")) for name in content["records"]},
        tuple(content["lineage"]),
        tuple(folder / name for name in native.ASSETS if (folder / name).is_file()),
    )


class _Inert:
    """Stands for whatever else a pickle names: takes what it is given, runs nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def append(self, *_: Any) -> None: ...

    extend = __setitem__ = add = append


_KNOWN: dict[tuple[str, str], Any] = {
    **{
        (dcp.__name__, name): getattr(dcp, name)
        for name in (
            "Metadata",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "MetadataIndex",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        )
    },
    (_StorageInfo.__module__, _StorageInfo.__name__): _StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): lambda name: torch.strided,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type(name, (_Inert,), {})


@dataclass(frozen=True)
class _Chunk:
    """A stored block of a tensor."""

    file: MappedFile
    start: int
    length: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def view(self) -> Tensor:
        """Its numbers, mapped: torch.load of fake tensors says where they lie."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        raw = self.file.bytes[self.start : self.start + self.length]
        file = io.BytesIO(raw.numpy().tobytes())
        with FakeTensorMode():
            fake = torch.load(file, weights_only=True, map_location="cpu")
        storage: Any = fake.untyped_storage()
        first = storage._checkpoint_offset + fake.storage_offset() * fake.itemsize
        flat = raw[first : storage._checkpoint_offset + storage.nbytes()]
        if (self.start + first) % fake.itemsize:
            flat = flat.clone()
        return flat.view(fake.dtype).as_strided(self.sizes, fake.stride())


@dataclass(frozen=True)
class SavedSource(TensorSource):
    """The tensors of a run's sharded checkpoint, mapped and read by rows."""

    metas: Mapping[str, Mapping[str, TensorMeta]]
    chunks: Mapping[tuple[str, str], tuple[_Chunk, ...]]
    _views: dict[tuple[str, str], tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> SavedSource:
        """Every weight of these shapes, and the moments that are there."""
        try:
            found: Any = _Unpickler(io.BytesIO((folder / METADATA).read_bytes())).load()
            stored = cast("Mapping[Any, _StorageInfo]", found.storage_data)
            entries = cast("Mapping[str, Any]", found.state_dict_metadata)
        except Exception as error:  # any: a damaged pickle fails in its own ways
            raise CheckpointError(f"{folder / METADATA} is damaged", got=error) from error
        files: dict[str, MappedFile] = {}
        metas: dict[str, dict[str, TensorMeta]] = {}
        chunks: dict[tuple[str, str], tuple[_Chunk, ...]] = {}
        for slot in ("weight", *MOMENTS):
            for name, shape in shapes.items():
                key = tensor_key(name, slot)
                entry = entries.get(key)
                if entry is None and slot == "weight":
                    raise CheckpointError(f"{folder} lacks the weight '{name}'")
                if entry is None:
                    continue
                if tuple(entry.size) != shape:
                    raise CheckpointError(
                        f"{slot} of '{name}' has another shape", got=tuple(entry.size), expected=shape
                    )
                metas.setdefault(slot, {})[name] = TensorMeta(shape, entry.properties.dtype)
                parts = []
                for one in entry.chunks:
                    if not all(one.sizes):
                        continue  # the empty shard of a rank
                    info = stored[dcp.MetadataIndex(key, one.offsets)]
                    file = files.setdefault(
                        info.relative_path, MappedFile(folder / Path(info.relative_path).name)
                    )
                    parts.append(_Chunk(file, info.offset, info.length, tuple(one.offsets), tuple(one.sizes)))
                held = sum(torch.Size(part.sizes).numel() for part in parts)
                if held != torch.Size(shape).numel():
                    raise CheckpointError(
                        f"{folder} lacks parts of {slot} of '{name}'",
                        got=held,
                        expected=torch.Size(shape).numel(),
                    )
                chunks[slot, name] = tuple(parts)
        return cls(metas, chunks)

    def names(self, slot: str) -> tuple[str, ...]:
        return tuple(self.metas.get(slot, {}))

    def meta(self, name: str, slot: str) -> TensorMeta:
        return self.metas[slot][name]

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        meta = self.meta(name, slot)
        if (slot, name) not in self._views:
            self._views[slot, name] = tuple(one.view() for one in self.chunks[slot, name])
        parts = list(zip(self.chunks[slot, name], self._views[slot, name], strict=True))
        if not meta.shape:
            return parts[0][1]
        index = torch.arange(meta.shape[0])[slice(None) if rows is None else rows]
        whole = torch.empty((len(index), *meta.shape[1:]), dtype=meta.dtype)
        for part, view in parts:
            first = part.offsets[0]
            here = (index >= first) & (index < first + part.sizes[0])
            box: Any = tuple(slice(at, at + size) for at, size in zip(part.offsets, part.sizes, strict=True))[
                1:
            ]
            whole[(here, *box)] = view[index[here] - first]
        return whole

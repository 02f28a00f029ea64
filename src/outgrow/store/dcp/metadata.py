"""`.metadata` of a DCP folder, read as data.

The file is a pickle, and torch opens it with plain `pickle.load`: whatever it names is imported and called. Here every
class that it names becomes an inert bag of its fields, so nothing runs, and classes of other trainers pass too.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from outgrow.errors import CheckpointError
from outgrow.store.safetensors_folder import plain_name
from outgrow.store.source import TensorMeta

NAME = ".metadata"
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor: where it lies in the tensor, and where its bytes lie in which file."""

    offsets: Numbers
    sizes: Numbers
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class Item:
    """One key of a folder: a tensor in chunks or, where `meta` is None, a small value of torch.save in one."""

    meta: TensorMeta | None
    chunks: tuple[Chunk, ...]


def read_metadata(folder: Path) -> dict[str, Item]:
    """What a DCP folder holds, by key; every field is checked before it is believed.

    Raises CheckpointError where the folder is unfinished, its metadata damaged, or chunks are missing.
    """
    path = folder / NAME
    if not path.is_file():
        fix = "use an earlier checkpoint: this file is written last"
        raise CheckpointError(f"{folder} is no finished DCP checkpoint: it has no {NAME}", fix=fix)
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes())).load()
        stored = {
            (index.fqn, tuple(getattr(index, "offset", None) or ())): info
            for index, info in found.storage_data.items()
        }
        items = {str(key): _item(str(key), entry, stored) for key, entry in found.state_dict_metadata.items()}
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", got=error.strerror) from error
    except Exception as error:  # any: a damaged pickle raises whatever its bytes happen to mean
        raise CheckpointError(
            f"{path} does not describe a DCP checkpoint", got=_reason(error), fix="copy the folder again"
        ) from error
    for name in sorted({chunk.file for item in items.values() for chunk in item.chunks}):
        _check_file(folder, name, items)
    return items


def _item(key: str, entry: Any, stored: Mapping[tuple[str, Numbers], Any]) -> Item:
    chunks = getattr(entry, "chunks", None)
    if chunks is None:
        return Item(None, (_chunk(key, (), (), stored[key, ()]),))
    dtype = entry.properties.state[0] if hasattr(entry.properties, "state") else entry.properties.dtype
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"{key} has no dtype", got=type(dtype).__name__)
    meta = TensorMeta(_numbers(entry.size), dtype)
    boxes = [(_numbers(one.offsets), _numbers(one.sizes)) for one in chunks]
    whole = tuple(_chunk(key, at, sizes, stored[key, at]) for at, sizes in boxes if prod(sizes))
    _check_cover(key, meta.shape, whole)
    return Item(meta, whole)


def _chunk(key: str, offsets: Numbers, sizes: Numbers, info: Any) -> Chunk:
    if getattr(info, "transform_descriptors", None):
        fix = "save it without compression"
        raise CheckpointError(f"{key} is stored compressed, which cannot be read by rows", fix=fix)
    if not plain_name(info.relative_path):
        fix = "do not trust this checkpoint; its files are names without any folder"
        raise CheckpointError(
            f"{NAME} names a file outside its folder, for {key}", got=repr(info.relative_path), fix=fix
        )
    start, length = _numbers((info.offset, info.length))
    return Chunk(offsets, sizes, info.relative_path, start, length)


def _check_cover(key: str, shape: Numbers, chunks: tuple[Chunk, ...]) -> None:
    """The chunks lie in the tensor and fill it: a checkpoint that lost a rank's files is found here."""
    for one in chunks:
        if len(one.offsets) != len(shape) or any(
            at + size > most for at, size, most in zip(one.offsets, one.sizes, shape, strict=True)
        ):
            raise CheckpointError(f"{key} has a part outside its shape", got=one.sizes, expected=shape)
    held = sum(prod(one.sizes) for one in chunks)
    if held != prod(shape) or len({one.offsets for one in chunks}) != len(chunks):
        raise CheckpointError(
            f"{key} is not whole: its parts do not fill it",
            got=f"{held} numbers in {len(chunks)} parts",
            expected=prod(shape),
            fix="copy the folder again, with the files of every rank",
        )


def _check_file(folder: Path, name: str, items: Mapping[str, Item]) -> None:
    path = folder / name
    if not path.is_file():
        fix = "copy the folder again, with the files of every rank"
        raise CheckpointError(f"{path} is missing", expected=f"named by {NAME}", fix=fix)
    needed = max(one.start + one.length for item in items.values() for one in item.chunks if one.file == name)
    if path.stat().st_size < needed:
        got = f"{path.stat().st_size} bytes"
        raise CheckpointError(f"{path} is truncated", got=got, expected=needed, fix="copy the folder again")


def _numbers(values: Any) -> Numbers:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"{values!r} are not sizes")
    return tuple(values)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


class _Bag:
    """What stands for any object of the pickle: its fields, and no behaviour."""

    def __new__(cls, *values: object, **fields: object) -> _Bag:
        bag = object.__new__(cls)
        bag.values = values
        return bag

    values: tuple[object, ...]

    def __init__(self, *values: object, **fields: object) -> None:
        """Nothing: what an object was made with is in `values`."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state

    def append(self, value: object) -> None:
        """A list or set of a class of its own is not looked at."""

    def __setitem__(self, key: object, value: object) -> None:
        """Nor is a mapping."""

    extend = add = append


class _Unpickler(pickle.Unpickler):
    """Names become bags; of torch, dtypes are themselves and sizes are tuples."""

    def find_class(self, module: str, name: str) -> Callable[..., object] | torch.dtype:
        if (module, name) == ("torch", "Size"):
            return lambda values=(): tuple(values)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)  # type: ignore[no-any-return]
        return type(name, (_Bag,), {})

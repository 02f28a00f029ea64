"""A Hugging Face model folder as a `TensorSource`: one file, or shards and their index.

Files of the hub may call a parameter otherwise than the model in memory does. A disk name is matched when it is the
in-memory name, with or without `base_model_prefix`, one of the two old LayerNorm names, or spelled as the architecture
file says that published files spell it, whole or in parts (see `stacked`); nothing else is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.models.names import ModelNames
from outgrow.store.config_file import read_json
from outgrow.store.foreign import refuse_tensors
from outgrow.store.lineage import Lineage
from outgrow.store.safetensors_file import Entry, read_header
from outgrow.store.source import Rows, TensorMeta, TensorSource
from outgrow.store.stacked import Place, identities, joined_parts

GROWN_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

LINEAGE = "outgrow_lineage"

NO_PARAMETERS = ("*rotary_emb.inv_freq", "*.position_ids", "position_ids")
"""Tables that files of any type may hold and every model makes itself."""


@dataclass(frozen=True)
class SafetensorsSource(TensorSource):
    """Tensors in safetensors files, mapped into memory and read when asked."""

    entries: Mapping[str, Mapping[str, Place]]
    """Slot, then name, to the place of the tensor."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """`__metadata__` of the files."""
    ignored: tuple[str, ...] = ()
    """Tensors of the files that are no parameters of the model, and are not read."""

    @classmethod
    def open(cls, folder: Path, names: ModelNames) -> SafetensorsSource:
        """Open the weights of `folder` under their in-memory names; every name and shape is checked first."""
        disk: dict[str, Entry] = {}
        metadata: dict[str, str] = {}
        for entries, own in read_files(weight_files(folder)):
            if twice := set(entries) & set(disk):
                raise CheckpointError(
                    f"two shards in {folder} hold the same tensors, and the index names neither",
                    got=some(twice),
                    fix="download the folder again, its index and all its shards",
                )
            disk.update(entries)
            metadata.update(own)
        refuse_tensors(folder, disk)
        whole = (
            disk if not names.apart else joined_parts(folder, disk, names, partial(spellings, names=names))
        )
        matched, ignored = _matched(folder, whole, names)
        return cls({"weight": matched}, metadata, ignored)

    def names(self, slot: str) -> tuple[str, ...]:
        return tuple(self.entries.get(slot, {}))

    def meta(self, name: str, slot: str) -> TensorMeta:
        return self.entries[slot][name].meta

    def files(self) -> frozenset[FileIdentity]:
        return frozenset(
            one for places in self.entries.values() for place in places.values() for one in identities(place)
        )

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        return self.entries[slot][name].read(rows)


def read_files(files: Mapping[Path, set[str] | None]) -> Iterator[tuple[dict[str, Entry], Mapping[str, str]]]:
    """The tensors and metadata of each file; what an index places in another file is left to that file."""
    promised = set().union(*(names for names in files.values() if names))
    for path, names in files.items():
        header = read_header(path)
        if missing := (names or set()) - set(header.entries):
            raise CheckpointError(f"{path} lacks tensors that the index promises", got=some(missing))
        elsewhere = promised - (names or set())
        yield (
            {name: entry for name, entry in header.entries.items() if name not in elsewhere},
            header.metadata,
        )


def read_lineage(metadata: Mapping[str, str]) -> Lineage:
    """The growths behind these weights, which outgrow stores in the files' metadata."""
    return Lineage.parse(metadata.get(LINEAGE, "[]"), f"the metadata {LINEAGE} of these weights")


def weight_files(folder: Path, stem: str = "model") -> dict[Path, set[str] | None]:
    """The files that hold `stem`'s tensors, each with the names that an index promises in it."""
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return {single: None}
    if index.is_file():
        return _indexed_files(folder, index)
    other = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("optimizer"))
    if len(other) == 1 and stem == "model" and "-of-" not in other[0].name:
        return {other[0]: None}
    found = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth")
    )
    raise CheckpointError(
        f"{folder} has no {stem} weights in safetensors files",
        got=", ".join(found[:8]) or "no weight files",
        expected=f"{single.name}, or {index.name} and its shards",
        fix="load it with transformers and save_pretrained it again: outgrow opens no pickled weights",
    )


def plain_name(name: object) -> bool:
    """Whether this names a file directly inside a folder, and nothing else."""
    return (
        isinstance(name, str) and name not in ("", ".", "..") and not any(mark in name for mark in "/\\:\0")
    )


def _indexed_files(folder: Path, index: Path) -> dict[Path, set[str] | None]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} is not an index", expected='{"weight_map": {tensor: file}}')
    files: dict[Path, set[str] | None] = {}
    promised: dict[Path, set[str]] = {}
    for tensor, file in weight_map.items():
        if not plain_name(file):
            raise CheckpointError(
                f"{index} names a file outside its folder, for {tensor}",
                got=repr(file),
                fix="do not trust this checkpoint; a shard is a file name without any folder",
            )
        promised.setdefault(folder / file, set()).add(tensor)
    for path, tensors in sorted(promised.items()):
        if not path.is_file():
            raise CheckpointError(
                f"the shard {path} is missing", expected=f"named by {index.name}", fix="download it"
            )
        files[path] = tensors
    return files


class Stored(Protocol):
    """Where a tensor lies, and how its rows are read."""

    @property
    def meta(self) -> TensorMeta:
        """Shape and dtype."""

    def read(self, rows: Rows = None) -> Tensor:
        """The tensor or some of its rows."""


S = TypeVar("S", bound=Stored)


def match_names(folder: Path, disk: Mapping[str, S], names: ModelNames) -> dict[str, S]:
    """Disk entries under in-memory names, in the order of the files; unknown, missing and misshapen tensors are errors."""
    return _matched(folder, disk, names)[0]


def _matched(folder: Path, disk: Mapping[str, S], names: ModelNames) -> tuple[dict[str, S], tuple[str, ...]]:
    """As `match_names`, and which of the entries are no parameters."""
    found: dict[str, str] = {}
    unknown: list[str] = []
    left: list[str] = []
    for name in disk:
        candidates = spellings(name, names)
        known = next((c for c in candidates if c in names.shapes or c in names.aliases), None)
        if known is None:
            patterns = (*NO_PARAMETERS, *names.ignored)
            ignored = any(fnmatchcase(c, pattern) for c in candidates for pattern in patterns)
            (left if ignored else unknown).append(name)
        elif known in found:
            raise CheckpointError(f"{folder} holds {known} twice", got=f"{found[known]} and {name}")
        else:
            found[known] = name
    matched = {known: disk[name] for known, name in found.items() if known in names.shapes}
    for alias, owner in names.aliases.items():
        if alias in found:
            _merge_tied(folder, matched, owner, disk[found[alias]], alias)
    missing = [name for name in names.shapes if name not in matched]
    if missing or unknown:
        raise CheckpointError(
            f"the tensors in {folder} are not those of the model in its config.json",
            got=f"unknown: {some(unknown)}; missing: {some(missing)}",
            fix="check that config.json (architectures, sizes) belongs to these weights",
        )
    for name, shape in names.shapes.items():
        if matched[name].meta.dtype not in GROWN_DTYPES:
            raise CheckpointError(
                f"{name} in {folder} holds numbers that outgrow does not grow",
                got=matched[name].meta.dtype,
                expected="float64, float32, float16 or bfloat16",
                fix="load the checkpoint before it was quantised, or convert it",
            )
        if matched[name].meta.shape != shape:
            raise CheckpointError(
                f"{name} in {folder} has the wrong shape", got=matched[name].meta.shape, expected=shape
            )
    return matched, tuple(left)


def spellings(name: str, names: ModelNames) -> list[str]:
    """What a name in a file may be called in memory, likeliest first."""
    old = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    spellings = [name] + [name.removesuffix(end) + new for end, new in old.items() if name.endswith(end)]
    renamed = name
    for there, here in names.disk.items():
        renamed = renamed.replace(there, here)
    spellings += [renamed] if renamed != name else []
    if not names.prefix:
        return spellings
    return [s for n in spellings for s in (n, f"{names.prefix}.{n}", n.removeprefix(f"{names.prefix}."))]


def _merge_tied(folder: Path, matched: dict[str, S], owner: str, copy: S, alias: str) -> None:
    kept = matched.setdefault(owner, copy)
    if kept is copy:
        return
    same = kept.meta == copy.meta
    rows = kept.meta.shape[0] if kept.meta.shape else 0
    step = max(1, rows * (32 << 20) // max(1, kept.meta.bytes))
    for start in range(0, rows if same else 0, step):
        part = slice(start, start + step)
        first, second = kept.read(part).reshape(-1), copy.read(part).reshape(-1)
        same = same and torch.equal(first.view(torch.uint8), second.view(torch.uint8))
    if not same:
        raise CheckpointError(
            f"{owner} and {alias} in {folder} differ, though the model ties them",
            fix='set "tie_word_embeddings": false in config.json if the model was trained untied',
        )


def some(names: Collection[str]) -> str:
    """A few of these names, for a message."""
    listed = sorted(names)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return (", ".join(listed[:4]) or "none") + more

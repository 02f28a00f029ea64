"""A tensor that published files hold in parts: the matrices of every expert apart, gate and up apart.

tensor[e] = (part_1 of e, part_2 of e, ...)        one after the other, along what is the second dimension
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.models.names import ModelNames
from outgrow.store.safetensors_file import Entry
from outgrow.store.source import Rows, TensorMeta


@dataclass(frozen=True)
class Held:
    """A tensor that is there already: in memory, or mapped."""

    tensor: Tensor
    identity: FileIdentity | None = None
    """The file that it is mapped from, if it is."""

    @property
    def meta(self) -> TensorMeta:
        """Shape and dtype."""
        return TensorMeta(tuple(self.tensor.shape), self.tensor.dtype)

    def read(self, rows: Rows = None) -> Tensor:
        """The tensor or some rows."""
        if self.identity is not None:
            self.identity.check()
        return self.tensor if rows is None else self.tensor[rows]


@dataclass(frozen=True)
class Stacked:
    """The parts of a tensor, per unit of its first dimension; parts of the same place are alike."""

    units: tuple[tuple[Entry | Held, ...], ...]

    @cached_property
    def meta(self) -> TensorMeta:
        """Shape and dtype of the whole."""
        parts = [one.meta for one in self.units[0]]
        rows = sum(one.shape[0] for one in parts)
        return TensorMeta((len(self.units), rows, *parts[0].shape[1:]), parts[0].dtype)

    def read(self, rows: Rows = None) -> Tensor:
        """The tensor or some rows: a copy, for which no other unit is read."""
        if isinstance(rows, Tensor):
            chosen = [self.units[place] for place in rows.tolist()]
        else:
            chosen = list(self.units if rows is None else self.units[rows])
        if not chosen:
            return torch.empty((0, *self.meta.shape[1:]), dtype=self.meta.dtype)
        return torch.stack([torch.cat([part.read() for part in unit]) for unit in chosen])


def identities(place: Place) -> Iterator[FileIdentity]:
    """The files that a place is in."""
    if isinstance(place, Stacked):
        for unit in place.units:
            for part in unit:
                yield from identities(part)
    elif isinstance(place, Entry):
        yield place.file.identity
    elif isinstance(place, Held) and place.identity is not None:
        yield place.identity


Place = Entry | Held | Stacked
"""Where the bytes of a tensor are: in one stretch of a file, at hand, or in parts."""


def joined_parts(
    folder: Path, disk: Mapping[str, Entry], names: ModelNames, spellings: Callable[[str], list[str]]
) -> dict[str, Place]:
    """Disk entries, with the parts of a tensor in memory put together under its name; an error where one is missing."""
    owners = {part: name for name, units in names.apart.items() for unit in units for part in unit}
    parts: dict[str, Entry] = {}
    whole: dict[str, Place] = {}
    for name, entry in disk.items():
        part = next((one for one in spellings(name) if one in owners), None)
        if part is None:
            whole[name] = entry
        elif part in parts:
            raise CheckpointError(f"{folder} holds {part} twice", got=name)
        else:
            parts[part] = entry
    for owner in dict.fromkeys(owners[part] for part in parts):
        _check_parts(folder, owner, parts, names)
        if owner in whole:
            raise CheckpointError(f"{folder} holds {owner} twice", got="the whole, and in parts")
        whole[owner] = Stacked(tuple(tuple(parts[part] for part in unit) for unit in names.apart[owner]))
    return whole


def _check_parts(folder: Path, owner: str, parts: Mapping[str, Entry], names: ModelNames) -> None:
    """All parts are there, of one dtype, and as large as the tensor in memory asks."""
    units = names.apart[owner]
    missing = [part for unit in units for part in unit if part not in parts]
    if missing:
        raise CheckpointError(
            f"{owner} in {folder} lacks parts",
            got=f"{len(missing)} missing: {missing[0]} ...",
            expected=f"{sum(map(len, units))} parts",
            fix="check that config.json (number of experts) belongs to these weights, or copy the folder again",
        )
    _, rows, *others = names.shapes[owner]
    dtype = parts[units[0][0]].meta.dtype
    wanted = TensorMeta((rows // len(units[0]), *others), dtype)
    for unit in units:
        for part in unit:
            found = parts[part].meta
            if found != wanted:
                raise CheckpointError(
                    f"{part} in {folder} has the wrong shape or dtype",
                    got=f"{found.shape} {found.dtype}",
                    expected=f"{wanted.shape} {wanted.dtype}",
                )

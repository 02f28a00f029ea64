"""`ConvertedView`: a state described as another model type, which exists only when it is read.

Entries move and nothing is computed: weights and every optimizer slot of a weight's shape are read by the same indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from outgrow.algebra.noise import normal_rows
from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError, GrowthError
from outgrow.files.identity import FileIdentity
from outgrow.models.conversion import Conversion, Made, head_size
from outgrow.store.source import Rows, TensorMeta, TensorSource


@dataclass(frozen=True)
class ConvertedView(TensorSource):
    """The tensors of a conversion's target, read from `source` on demand."""

    conversion: Conversion
    source: TensorSource
    seed: int = 0
    moments: bool = True
    """Whether the optimizer's slots are carried."""

    def __post_init__(self) -> None:
        for slot in SLOTS:
            for name in self.names(slot):
                self._check(slot, self.conversion.tensors[name], name)

    def names(self, slot: str) -> tuple[str, ...]:
        if slot not in SLOTS or (slot != "weight" and not self.moments):
            return ()
        old = frozenset(self.source.names(slot))
        return (
            tuple(name for name, made in self.conversion.tensors.items() if made.group in old) if old else ()
        )

    def files(self) -> frozenset[FileIdentity]:
        return self.source.files()

    def meta(self, name: str, slot: str) -> TensorMeta:
        shape = SLOTS[slot].shape(self.conversion.large.shape(name))
        return TensorMeta(shape, self.source.meta(self.conversion.tensors[name].group, slot).dtype)

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        made, rows = self.conversion.tensors[name], slice(None) if rows is None else rows
        if not made.sources:
            return self._filled(name, slot, rows)
        if not made.rule.new:
            return self._moved(made, slot, rows)
        return self._moved(made, slot, slice(None))[None][rows]

    def _moved(self, made: Made, slot: str, rows: slice | Tensor) -> Tensor:
        """Rows of the sources one after the other, in the target's order."""
        head = head_size(made, self.conversion.small)
        if len(made.sources) == 1 and head is None:
            return self.source.read(made.sources[0], slot, rows)
        metas = [self.source.meta(source, slot) for source in made.sources]
        wanted = torch.arange(sum(meta.shape[0] for meta in metas))[rows]
        block = torch.empty(len(wanted), *metas[0].shape[1:], dtype=metas[0].dtype)
        begin = 0
        for source, meta in zip(made.sources, metas, strict=True):
            here = (wanted >= begin) & (wanted < begin + meta.shape[0])
            if bool(here.any()):
                block[here] = self.source.read(source, slot, _run(_halves(wanted[here] - begin, head)))
            begin += meta.shape[0]
        return block

    def _filled(self, name: str, slot: str, rows: slice | Tensor) -> Tensor:
        """A tensor that the source does not have: its weights begin as the rule says, its moments at zero."""
        meta, fill = self.meta(name, slot), self.conversion.tensors[name].rule.fill
        if slot != "weight" or not isinstance(fill, str):
            value = (
                float(fill) if slot == "weight" and fill is not None and not isinstance(fill, str) else 0.0
            )
            return torch.full(meta.shape, value, dtype=meta.dtype)[rows]
        std = float(self.conversion.small.config.get("initializer_range") or 0.02)
        columns = meta.bytes // meta.dtype.itemsize // meta.shape[0]
        drawn = normal_rows(self.seed, f"{name}/converted", 0, meta.shape[0], columns) * std
        return drawn.view(meta.shape).to(meta.dtype)[rows]

    def _check(self, slot: str, made: Made, name: str) -> None:
        """Raises where the source has no such tensor, another shape, or moments that are no entries of their own."""
        held = frozenset(self.source.names(slot))
        for source in made.sources:
            if source not in held:
                raise CheckpointError(f"the source has no {slot} for '{source}', of which {name} is made")
            got = self.source.meta(source, slot).shape
            expected = SLOTS[slot].shape(self.conversion.small.shape(source))
            if got != expected:
                raise CheckpointError(f"{slot} of '{source}' has a wrong shape", got=got, expected=expected)
        moved = len(made.sources) > 1 or made.rule.new or made.rule.pairs is not None
        if moved and SLOTS[slot].mean_over is not None:
            raise GrowthError(
                f"a factored second moment ({slot}) cannot follow {name}, which is made of {' and '.join(made.sources)}",
                fix="convert with moments reset",
            )


def _halves(rows: Tensor, head: int | None) -> Tensor:
    """Where rows of heads whose pairs are side by side stand in heads whose halves are: 0 1 2 3 -> 0 2 1 3.

    >>> _halves(torch.arange(4), 4).tolist()
    [0, 2, 1, 3]
    """
    if head is None:
        return rows
    place = rows % head
    return rows - place + place // 2 + (place % 2) * (head // 2)


def _run(rows: Tensor) -> slice | Tensor:
    """Rows as a slice where they are one stretch: read at once, without a gather."""
    first, count = int(rows[0]), len(rows)
    return slice(first, first + count) if torch.equal(rows, torch.arange(first, first + count)) else rows

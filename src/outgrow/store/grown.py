"""`GrownView`: a grown training state that exists only when it is read.

It is a `TensorSource` like any other: streaming to a file, loading into a live model and sharded loading all read
through it, a few rows at a time, so memory depends on the block that is asked for and not on the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.plan import GrowthPlan
from outgrow.recipe import Recipe, evaluate
from outgrow.store.source import Rows, TensorMeta, TensorSource

BLOCK_ROWS_BYTES = 32 << 20


@dataclass(frozen=True)
class GrownView(TensorSource):
    """The tensors of `plan`'s large model, computed from `source` on demand, in float32 (or float64 where the source is)."""

    plan: GrowthPlan
    source: TensorSource
    _statistics: dict[tuple[str, str, str], float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for slot in self.plan.recipes:
            names = self.source.names(slot)
            if not names:
                continue
            for name in self.plan.small.parameters:
                if name not in names:
                    raise CheckpointError(
                        f"the source has no {slot} for '{name}'", expected="one per parameter"
                    )
                got, expected = self.source.meta(name, slot).shape, self.plan.small.shape(name)
                if got != expected:
                    raise CheckpointError(f"{slot} of '{name}' has a wrong shape", got=got, expected=expected)

    def names(self, slot: str) -> tuple[str, ...]:
        if slot not in self.plan.recipes or (slot != "weight" and self.plan.moments == "reset"):
            return ()
        return tuple(self.plan.recipes[slot]) if self.source.names(slot) else ()

    def groups(self, slot: str) -> tuple[tuple[str, ...], ...]:
        return self.plan.same_contents(slot) if self.names(slot) else ()

    def meta(self, name: str, slot: str) -> TensorMeta:
        return TensorMeta(self.plan.recipes[slot][name].shape, self._dtype(name, slot))

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        recipe = self.plan.recipes[slot][name]
        if isinstance(rows, Tensor):
            if not len(rows):
                return self._compute(recipe, slot, 0, 0)
            first, last = int(rows.min()), int(rows.max())
            return self._compute(recipe, slot, first, last + 1)[rows - first]
        start, stop, step = (rows or slice(None)).indices(recipe.shape[0])
        return self._compute(recipe, slot, start, stop)[::step]

    def _compute(self, recipe: Recipe, slot: str, start: int, stop: int) -> Tensor:
        dtype = self._dtype(recipe.name, slot)
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        grown = evaluate(
            recipe,
            lambda name, rows: self._source(name, slot, rows),
            lambda name, which: self._statistic(name, slot, which),
            start,
            stop,
            compute,
        )
        return grown.to(dtype)

    def _dtype(self, name: str, slot: str) -> torch.dtype:
        """A grown tensor has its source's dtype; one without a source has that of the first tensor."""
        terms = self.plan.recipes[slot][name].terms
        known = set(self.source.names(slot))
        source = next((str(term.source) for term in terms if term.source in known), min(known))
        return self.source.meta(source, slot).dtype

    def _source(self, name: str, slot: str, rows: slice | Tensor) -> Tensor:
        """Rows of a source tensor, or of one that the growth itself brings (learned operators)."""
        learned = self.plan.growth.tensors.get(name) if slot == "weight" else None
        return self.source.read(name, slot, rows) if learned is None else learned[rows]

    def _statistic(self, name: str, slot: str, which: Literal["mean", "rms"]) -> float:
        """Mean or root mean square of a source tensor, read once, block by block."""
        key = (name, slot, which)
        if key not in self._statistics:
            power = 1 if which == "mean" else 2
            meta = self.source.meta(name, slot)
            block = max(1, BLOCK_ROWS_BYTES * meta.shape[0] // max(meta.bytes, 1))
            total = sum(
                float(self.source.read(name, slot, slice(start, start + block)).double().pow(power).sum())
                for start in range(0, meta.shape[0], block)
            )
            self._statistics[key] = (total / (meta.bytes // meta.dtype.itemsize)) ** (1 / power)
        return self._statistics[key]

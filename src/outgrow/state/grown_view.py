"""`GrownView`: a grown training state that exists only when it is read.

It is a `TensorSource` like any other: streaming to a file, loading into a live model and sharded loading all read
through it, a few rows at a time, so memory depends on the block that is asked for and not on the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.recipe import Recipe, evaluate
from outgrow.algebra.slots import SLOTS, WEIGHT
from outgrow.errors import CheckpointError
from outgrow.growth.plan import GrowthPlan
from outgrow.growth.rank_costs import in_reading_order
from outgrow.store.source import Rows, TensorMeta, TensorSource

BLOCK_ROWS_BYTES = 32 << 20


@dataclass(frozen=True)
class GrownView(TensorSource):
    """The tensors of `plan`'s large model, computed from `source` on demand, in float32 (or float64 where the source is)."""

    plan: GrowthPlan
    source: TensorSource
    _statistics: dict[tuple[str, str, str], float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for slot in SLOTS.values():
            names = self._old_names(slot.name)
            missing = set(self.plan.small.parameters) - names if slot is WEIGHT and names else ()
            for name in missing:
                raise CheckpointError(f"the source has no weight for '{name}'", expected="one per parameter")
            for name in names & set(self.plan.small.parameters):
                got = self.source.meta(name, slot.name).shape
                expected = slot.shape(self.plan.small.shape(name))
                if got != expected:
                    raise CheckpointError(
                        f"{slot.name} of '{name}' has a wrong shape", got=got, expected=expected
                    )

    def names(self, slot: str) -> tuple[str, ...]:
        if slot not in SLOTS or (slot != "weight" and self.plan.moments == "reset"):
            return ()
        old = self._old_names(slot)
        return tuple(name for name in self.plan.recipes[slot] if self.plan.origin(name) in old) if old else ()

    def _old_names(self, slot: str) -> frozenset[str]:
        return frozenset(self.source.names(slot))

    def groups(self, slot: str) -> tuple[tuple[str, ...], ...]:
        here = set(self.names(slot))
        groups = (
            tuple(name for name in group if name in here) for group in in_reading_order(self.plan, slot)
        )
        return tuple(group for group in groups if group) if here else ()

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
        grown = self._cook(recipe, slot, start, stop, compute)
        if recipe.follows is not None:
            slot, other = recipe.follows
            grown = grown * self._mean_growth(other, slot)
        return grown.to(dtype)

    def _cook(self, recipe: Recipe, slot: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return evaluate(
            recipe,
            lambda name, rows: self._source(name, slot, rows),
            lambda name, which: self.statistic(name, slot, which),
            start,
            stop,
            dtype,
        )

    def _mean_growth(self, recipe: Recipe, slot: str) -> float:
        """mean(grown) / mean(source) of one factor of a second moment; 1 where the source is all zero."""
        key = (recipe.name, slot, "growth")
        if key not in self._statistics:
            before = sum(
                term.coefficient * self.statistic(str(term.source), slot, "mean") for term in recipe.terms
            )
            grown = self._cook(recipe, slot, 0, recipe.shape[0], torch.float64)
            after = _sum(grown) / grown.numel()
            self._statistics[key] = after / before if before else 1.0
        return self._statistics[key]

    def _dtype(self, name: str, slot: str) -> torch.dtype:
        """A grown tensor has its source's dtype; one without a source has that of the tensor in whose place it stands."""
        for term in self.plan.recipes[slot][name].terms:
            if term.source in self.plan.small.parameters:
                return self.source.meta(str(term.source), slot).dtype
        return self.source.meta(self.plan.origin(name), slot).dtype

    def _source(self, name: str, slot: str, rows: slice | Tensor) -> Tensor:
        """Rows of a source tensor, or of one that the growth itself brings (learned operators)."""
        learned = self.plan.growth.tensors.get(name) if slot == "weight" else None
        return self.source.read(name, slot, rows) if learned is None else learned[rows]

    def statistic(self, name: str, slot: str, which: Literal["mean", "rms", "lowest"]) -> float:
        """Mean, root mean square or lowest entry of a source tensor, read once, block by block."""
        key = (name, slot, which)
        if key not in self._statistics:
            meta = self.source.meta(name, slot)
            block = max(1, BLOCK_ROWS_BYTES * meta.shape[0] // max(meta.bytes, 1))
            total, lowest = 0.0, math.inf
            for start in range(0, meta.shape[0], block):
                values = self.source.read(name, slot, slice(start, start + block))
                total += _sum(values.square() if which == "rms" else values)
                lowest = min(lowest, float(values.min()))
            mean = total / (meta.bytes // meta.dtype.itemsize)
            self._statistics[key] = {"mean": mean, "rms": max(mean, 0.0) ** 0.5, "lowest": lowest}[which]
        return self._statistics[key]

    def know(self, name: str, slot: str, which: str, value: float) -> None:
        """Take a statistic that another process has worked out."""
        self._statistics[name, slot, which] = value


def _sum(values: Tensor) -> float:
    """The sum in float64. NumPy's is the same however many threads there are; torch's is not."""
    wide = values.to("cpu", torch.promote_types(values.dtype, torch.float32))
    return float(wide.numpy().sum(dtype="float64"))

"""`GrownView`: a grown training state that exists only when it is read.

It is a `TensorSource` like any other: streaming to a file, loading into a live model and sharded loading all read
through it, a few rows at a time, so memory depends on the block that is asked for and not on the model.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.linear import mean_along
from outgrow.algebra.noise import Box
from outgrow.algebra.recipe import Recipe, evaluate_recipe
from outgrow.algebra.slots import SLOTS, WEIGHT
from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.growth.plan import GrowthPlan
from outgrow.growth.rank_costs import in_reading_order
from outgrow.store.check import row_blocks
from outgrow.store.safetensors_folder import some
from outgrow.store.source import Rows, TensorMeta, TensorSource

BLOCK_ROWS_BYTES = 2 << 20


@dataclass(frozen=True)
class GrownView(TensorSource):
    """The tensors of `plan`'s large model, computed from `source` on demand, in float32 (or float64 where the source is)."""

    plan: GrowthPlan
    source: TensorSource
    _statistics: dict[tuple[str, str, str], float] = field(default_factory=dict, repr=False)
    _mean_rows: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def __post_init__(self) -> None:
        for slot in SLOTS.values():
            names = self._old_names(slot.name)
            missing = set(self.plan.small.parameters) - names if slot is WEIGHT and names else ()
            for name in missing:
                raise CheckpointError(f"the source has no weight for '{name}'", expected="one per parameter")
            unknown = sorted(names - set(self.plan.small.parameters)) if slot is WEIGHT else ()
            if unknown:
                raise CheckpointError(
                    "the source has weights that its model, as its config says it, has not",
                    got=some(unknown),
                    fix="what was added to a live model is taken off first, and put on the grown one; "
                    "where a tie was broken, say so: model.config.tie_word_embeddings = False",
                )
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

    def files(self) -> frozenset[FileIdentity]:
        return self.source.files()

    def prepare(self, names: Collection[str], slot: str) -> None:
        known = self.plan.small.parameters
        terms = (term for name in names for term in self.plan.recipes[slot][name].terms)
        self.source.prepare({str(term.source) for term in terms if term.source in known}, slot)

    def meta(self, name: str, slot: str) -> TensorMeta:
        return TensorMeta(self.plan.recipes[slot][name].shape, self._dtype(name, slot))

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        shape = self.plan.recipes[slot][name].shape
        others = tuple((0, size) for size in shape[1:])
        if isinstance(rows, Tensor):
            first, last = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
            return self.cut(name, slot, ((first, last), *others))[rows - first]
        start, stop, step = (rows or slice(None)).indices(shape[0])
        return self.cut(name, slot, ((start, max(start, stop)), *others))[::step]

    def cut(self, name: str, slot: str, box: Box) -> Tensor:
        """A box of a tensor, (start, stop) per dimension: nothing outside it is computed."""
        recipe, dtype = self.plan.recipes[slot][name], self._dtype(name, slot)
        wide = torch.promote_types(dtype, torch.float32)
        if recipe.follows is None:
            return self._cook(recipe, slot, box, wide, dtype)
        partner, other = recipe.follows
        # The growth of its mean is that of the partner's slot; the factor itself is read from its own.
        return (self._cook(recipe, slot, box, wide, wide) * self._mean_growth(other, partner)).to(dtype)

    def _cook(self, recipe: Recipe, slot: str, box: Box, wide: torch.dtype, dtype: torch.dtype) -> Tensor:
        return evaluate_recipe(
            recipe,
            lambda name, rows: self._source(name, slot, rows),
            lambda name, which: self.statistic(name, slot, which),
            lambda name: self._mean_row(name, slot),
            box,
            wide=wide,
            dtype=dtype,
        )

    def _mean_growth(self, recipe: Recipe, slot: str) -> float:
        """mean(grown) / mean(source) of one factor of a second moment; 1 where the source is all zero."""
        key = (recipe.name, slot, "growth")
        if key not in self._statistics:
            before = sum(
                term.coefficient * self.statistic(str(term.source), slot, "mean") for term in recipe.terms
            )
            whole = tuple((0, size) for size in recipe.shape)
            grown = self._cook(recipe, slot, whole, torch.float64, torch.float64)
            after = _sum(grown) / grown.numel()
            self._statistics[key] = after / before if before else 1.0
        return self._statistics[key]

    def _dtype(self, name: str, slot: str) -> torch.dtype:
        """A grown tensor has its source's dtype; one without a source has that of the tensor in whose place it stands."""
        for term in self.plan.recipes[slot][name].terms:
            if term.source in self.plan.small.parameters:
                return self.source.meta(str(term.source), slot).dtype
        return self.source.meta(self.plan.origin(name), slot).dtype

    def _meta(self, name: str, slot: str) -> TensorMeta:
        learned = self.plan.growth.tensors.get(name) if slot == "weight" else None
        return (
            self.source.meta(name, slot)
            if learned is None
            else TensorMeta(tuple(learned.shape), learned.dtype)
        )

    def _source(self, name: str, slot: str, rows: slice | Tensor) -> Tensor:
        """Rows of a source tensor, or of one that the growth itself brings (learned operators)."""
        learned = self.plan.growth.tensors.get(name) if slot == "weight" else None
        return self.source.read(name, slot, rows) if learned is None else learned[rows]

    def statistic(self, name: str, slot: str, which: Literal["mean", "rms", "lowest"]) -> float:
        """Mean, root mean square or lowest entry of a source tensor, read once, block by block."""
        with self._lock:  # workers of the writer ask at the same time: one reads, the others wait
            key = (name, slot, which)
            if key not in self._statistics:
                total, lowest = 0.0, math.inf
                for block in self._wide_blocks(name, slot):
                    total += _sum(block.square() if which == "rms" else block)
                    lowest = min(lowest, float(block.min()))
                mean = total / max(1, math.prod(self._meta(name, slot).shape))
                self._statistics[key] = {"mean": mean, "rms": max(mean, 0.0) ** 0.5, "lowest": lowest}[which]
            return self._statistics[key]

    def _mean_row(self, name: str, slot: str) -> Tensor:
        """The mean over dimension 0 of a source tensor, float64, read once, block by block."""
        with self._lock:
            key = (name, slot)
            if key not in self._mean_rows:
                rows = self._meta(name, slot).shape[0]
                total = sum(
                    mean_along(block.double(), 0)[0] * len(block) for block in self._wide_blocks(name, slot)
                )
                self._mean_rows[key] = torch.as_tensor(total) / rows
            return self._mean_rows[key]

    def _wide_blocks(self, name: str, slot: str) -> Iterator[Tensor]:
        """A source tensor in blocks of always the same rows, in float32 or wider."""
        for rows in row_blocks(self._meta(name, slot), BLOCK_ROWS_BYTES):
            block = self._source(name, slot, slice(None) if rows is None else rows)
            yield block.to(torch.promote_types(block.dtype, torch.float32))

    def know(self, name: str, slot: str, which: str, value: float) -> None:
        """Take a statistic that another process has worked out."""
        self._statistics[name, slot, which] = value


def _sum(values: Tensor) -> float:
    """The sum in float64. NumPy's is the same however many threads there are; torch's is not."""
    return float(values.cpu().numpy().sum(dtype="float64"))

"""What a growth by many processes costs each of them, from its plan alone: bytes read, needed and written.

    files     the blocks of the written files, in stretches of equal bytes (`store/writer.py`)
    shards    row r of every tensor is on rank r // ceil(rows / ranks), as FSDP2 cuts dimension 0

A rank *needs* the rows of the sources that its part is made of, each once; it *reads* what its blocks ask for, where a
block that follows another with rows of the same source finds them in memory. Amplification = read / needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
import torch

from outgrow.algebra.linear import MEAN, LinearMap
from outgrow.algebra.recipe import CHUNK, Recipe
from outgrow.growth.plan import GrowthPlan
from outgrow.parallel import pieces
from outgrow.store import writer
from outgrow.store.streaming_memory import streaming_memory

Placement = Literal["files", "shards"]
RowRange = tuple[int, int]
"""Rows from one to before the other."""
Runs = tuple[tuple[int, RowRange], ...]
"""Which rows of a tensor each rank has, where it has some."""
_Part = tuple[LinearMap, Runs]
_WORK: dict[Placement, tuple[int, int]] = {
    "files": (writer.WORKERS, writer.BLOCK_BYTES),
    "shards": (1, pieces.BLOCK_BYTES),
}
"""How many blocks of a rank are at work at once, and of how many bytes each is."""


def growing_memory(plan: GrowthPlan, placement: Placement) -> int:
    """Bytes that a growth takes at its peak for what it computes, beside what it was asked for and the pages of its sources.

    Beside its block a worker holds a source's rows and their sum in float32 where numbers are summed, or what is drawn for
    the block; where entries are only moved it holds nothing.
    """
    workers, block_bytes = _WORK[placement]
    layouts = [recipe.layout for recipe in plan.recipes["weight"].values()]
    if any(one is None or one.sums or one.gathers for one in layouts):
        beside = 2 * CHUNK * torch.float32.itemsize
    else:
        beside = block_bytes if any(one.placed for one in layouts if one is not None) else 0
    return streaming_memory(workers, block_bytes, beside)


@dataclass(frozen=True, eq=False)
class RankCosts:
    """Bytes of every rank."""

    read: np.ndarray
    needed: np.ndarray
    written: np.ndarray
    memory: int
    """At its peak, above Python's own: blocks, and with `shards` the largest rank's own."""

    @property
    def amplification(self) -> float:
        """Bytes read for a byte that is needed, all ranks together."""
        return float(self.read.sum() / max(1, self.needed.sum()))

    def describe(self) -> dict[str, Any]:
        """Plain data: totals, and the rank that has most to do."""
        most = int((self.read + self.written).argmax())
        return {
            "ranks": len(self.read),
            "bytes_read": int(self.read.sum()),
            "bytes_needed": int(self.needed.sum()),
            "bytes_written": int(self.written.sum()),
            "amplification": round(self.amplification, 3),
            "largest_rank": {
                "rank": most,
                "bytes_read": int(self.read[most]),
                "bytes_written": int(self.written[most]),
            },
            "memory_bytes": self.memory,
        }


def rank_costs(
    plan: GrowthPlan,
    ranks: int,
    placement: Placement = "files",
    *,
    slots: Sequence[str] = ("weight", "exp_avg", "exp_avg_sq"),
    itemsize: int = 4,
    block_bytes: int | None = None,
) -> RankCosts:
    """The cost of growing these slots on so many ranks, `itemsize` bytes per number; nothing is read or computed.

    `block_bytes`: rows that are computed at once, else those of a growth to that placement.

    >>> from outgrow.methods.build import build
    >>> from outgrow.growth.plan import plan
    >>> from outgrow.models.architecture import resolve
    >>> small = {"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11}
    >>> growth = build(resolve(small), {"n_layer": 2}, width="isometric", depth="stack", noise=0.0, seed=0)
    >>> rank_costs(plan(growth), 2, "shards", slots=["weight"]).amplification
    1.0
    """
    block_bytes = block_bytes or _WORK[placement][1]
    known = _Rows(ranks)
    read, needed, written = (np.zeros(ranks, dtype=np.int64) for _ in range(3))
    everything: dict[tuple[str, str], set[_Part]] = {}
    here: dict[tuple[str, str], set[_Part]] = {}
    columns: dict[tuple[str, str], int] = {}

    def leave() -> None:
        for source, parts in here.items():
            read[:] += known.distinct(frozenset(parts)) * columns[source]
        here.clear()

    for slot, members, recipe, runs in _parts(plan, ranks, placement, slots, itemsize, block_bytes):
        written += known.count(runs) * (itemsize * prod(recipe.shape[1:]) * members)
        terms = [term for term in recipe.terms if isinstance(term.source, str)]
        if not {(slot, str(term.source)) for term in terms} & set(here):
            leave()
        for term in terms:
            source, part = (slot, str(term.source)), (term.maps[0], runs)
            columns[source] = itemsize * prod(map_.inputs for map_ in term.maps[1:])
            here.setdefault(source, set()).add(part)
            everything.setdefault(source, set()).add(part)
    leave()
    for source, parts in everything.items():
        needed += known.distinct(frozenset(parts)) * columns[source]
    own = int(written.max()) if placement == "shards" else 0
    return RankCosts(read, needed, written, own + growing_memory(plan, placement))


def _parts(
    plan: GrowthPlan, ranks: int, placement: Placement, slots: Sequence[str], itemsize: int, block_bytes: int
) -> Iterator[tuple[str, int, Recipe, Runs]]:
    """(slot, tensors of the same contents, recipe, rows of each rank) in the order in which ranks work."""
    groups = [(slot, names) for slot in slots for names in in_reading_order(plan, slot)]
    recipes = [plan.recipes[slot][names[0]] for slot, names in groups]
    sizes = [itemsize * prod(one.shape) * len(names) for one, (_, names) in zip(recipes, groups, strict=True)]
    total, before = sum(sizes), 0
    alike: dict[int, Runs] = {}
    for (slot, names), recipe, size in zip(groups, recipes, sizes, strict=True):
        rows = recipe.shape[0] if recipe.shape else 1
        if placement == "shards":
            step = -(-rows // ranks)
            cuts = alike.setdefault(
                rows,
                tuple((at // step, (at, min(at + step, rows))) for at in range(0, rows, step)),
            )
        else:
            cuts = _stretches(rows, size, before, total, ranks, block_bytes * len(names))
        before += size
        yield slot, len(names), recipe, cuts


def _stretches(rows: int, size: int, before: int, total: int, ranks: int, block_bytes: int) -> Runs:
    """A tensor's blocks, joined where one rank has neighbours: a block belongs where its middle lies (`writer.shares`)."""
    step = max(1, block_bytes * rows // max(1, size))
    starts = np.arange(0, rows, step)
    stops = np.minimum(starts + step, rows)
    middles = before + (starts + stops) * (size / rows) / 2
    owners = np.minimum(ranks - 1, (middles * ranks / total).astype(np.int64))
    edges = np.flatnonzero(np.diff(owners)) + 1
    firsts, lasts = np.concatenate([[0], edges]), np.concatenate([edges, [len(starts)]])
    return tuple(
        (int(owners[first]), (int(starts[first]), int(stops[last - 1])))
        for first, last in zip(firsts, lasts, strict=True)
    )


def in_reading_order(plan: GrowthPlan, slot: str) -> list[tuple[str, ...]]:
    """Tensors of the same contents together, and next to each other those of the same sources: read once, used for all.

    A copy that has noise of its own is no copy, but finds the source's pages in memory when it comes next.
    """
    order = {name: number for number, name in enumerate(plan.small.parameters)}

    def first_source(names: tuple[str, ...]) -> int:
        sources = (order.get(str(term.source)) for term in plan.recipes[slot][names[0]].terms)
        return next((one for one in sources if one is not None), len(order))

    return sorted(plan.same_contents(slot), key=first_source)


@dataclass(eq=False)
class _Rows:
    """How many rows of a source each rank's rows are made of; worked out once for layers that are alike."""

    ranks: int
    known: dict[frozenset[_Part], np.ndarray] = field(default_factory=dict)

    def count(self, runs: Runs) -> np.ndarray:
        """Rows of each rank."""
        found = np.zeros(self.ranks, dtype=np.int64)
        for rank, (start, stop) in runs:
            found[rank] += stop - start
        return found

    def distinct(self, parts: frozenset[_Part]) -> np.ndarray:
        """Different rows of the source behind all of these, by rank."""
        if parts not in self.known:
            behind: dict[int, list[np.ndarray]] = {}
            for map_, runs in parts:
                for rank, run in runs:
                    behind.setdefault(rank, []).append(_source_rows(map_, run))
            found = np.zeros(self.ranks, dtype=np.int64)
            for rank, rows in behind.items():
                found[rank] = len(rows[0]) if len(rows) == 1 else len(np.unique(np.concatenate(rows)))
            self.known[parts] = found
        return self.known[parts]


def _source_rows(map_: LinearMap, run: RowRange) -> np.ndarray:
    """The source's rows that some rows of a map are made of; all of them for a mean, or a map that mixes."""
    if map_.is_identity:
        return np.arange(*run)
    gather = map_.gather
    if gather is None:
        return np.arange(map_.inputs)
    index = gather.index[run[0] : run[1]]
    covered = gather.covered()[run[0] : run[1]]
    if bool((index[covered] == MEAN).any()):
        return np.arange(map_.inputs)
    found: np.ndarray = torch.unique(index[covered & (index >= 0)]).numpy()
    return found

"""Which rank is where: copies of the model, the ranks that cut a copy, and those that cut every layer inside.

    rank = (copy · shard + part) · tensor + slice          0 ≤ copy < replicate, 0 ≤ part < shard, 0 ≤ slice < tensor

Ranks of one tensor group differ in `slice` alone and see the same sequences, so the data are dealt by rank // tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from outgrow.errors import ConfigError


@dataclass(frozen=True)
class DataPart:
    """Which micro-batches a rank does: every `of`-th from `number` on; `counts` is true of one rank of those that do the same."""

    number: int = 0
    of: int = 1
    counts: bool = True


@dataclass(frozen=True)
class MeshSizes:
    """The dimensions of a mesh of ranks, the slowest first.

    >>> [MeshSizes(1, 2, 2).part(rank) for rank in (1, 2)]
    [DataPart(number=0, of=2, counts=False), DataPart(number=1, of=2, counts=True)]
    """

    replicate: int = 1
    shard: int = 1
    tensor: int = 1

    @classmethod
    def of(cls, world: int, *, shard: int | None, replicate: int, tensor: int) -> MeshSizes:
        """The mesh of so many ranks; `shard` is worked out where it is not given. ConfigError where it is not theirs."""
        found = shard or max(1, world // (replicate * tensor))
        if replicate * found * tensor != world:
            sliced = f" x tensor {tensor}" if tensor > 1 else ""
            raise ConfigError(
                "parallel: the mesh is not that of the ranks",
                got=f"replicate {replicate} x shard {shard or 'auto'}{sliced} for {world} ranks",
                expected="replicate x shard x tensor = the number of ranks",
                fix="leave out parallel.shard, or start as many processes",
            )
        return cls(replicate, found, tensor)

    @property
    def data(self) -> int:
        """Ranks that see different sequences."""
        return self.replicate * self.shard

    def part(self, rank: int) -> DataPart:
        """What this rank does of the data."""
        return DataPart(rank // self.tensor, self.data, rank % self.tensor == 0)

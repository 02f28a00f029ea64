"""Tensors that are cut among ranks, as a source: one whole tensor of the small model at a time, and only while it is read.

A rank that fills its shards of a larger model may read any rows, so what they are made of is brought before, by all
ranks together (`prepare`), and let go when the next is. Nothing of the larger model is ever whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.placement_types import _StridedShard

from outgrow.store.source import Rows, TensorMeta, TensorSource


@dataclass(frozen=True)
class GatheredSource(TensorSource):
    """`{slot: {name: tensor}}` of a live model and its optimizer, some or all of them DTensors."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    _whole: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)

    def names(self, slot: str) -> tuple[str, ...]:
        return tuple(self.tensors.get(slot, {}))

    def meta(self, name: str, slot: str) -> TensorMeta:
        tensor = self.tensors[slot][name]
        return TensorMeta(tuple(tensor.shape), tensor.dtype)

    def prepare(self, names: Collection[str], slot: str) -> None:
        wanted = {(slot, name) for name in names}
        for key in set(self._whole) - wanted:
            del self._whole[key]
        for key in sorted(wanted - set(self._whole)):  # in the same order on every rank
            tensor = self.tensors[slot][key[1]].detach()
            self._whole[key] = _gathered(tensor) if isinstance(tensor, DTensor) else tensor

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        assert (slot, name) in self._whole, f"{slot} of {name} is read and was not brought"
        whole = self._whole[slot, name]
        return whole if rows is None else whole[rows]


def _gathered(tensor: DTensor) -> Tensor:
    """All of a tensor, put together in the order in which it was cut: a strided shard was the last cut, then from the right."""
    places = list(tensor.placements)
    for dim in sorted(range(len(places)), key=lambda dim: (not isinstance(places[dim], _StridedShard), -dim)):
        places[dim] = Replicate()
        tensor = tensor.redistribute(placements=places)
    return tensor.to_local()

"""A learning rate of their own for new entries, whatever the optimizer does inside.

    p_new = p_before + multiplier · (p_after - p_before)

An update that is linear in the learning rate, decoupled weight decay included (SGD, AdamW, Muon), so becomes exactly
that of a learning rate `multiplier` times as high; moments do not see it. Old entries are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from outgrow.growth.new_entries import NewEntries, Region, region
from outgrow.parallel.pieces import held, local


@dataclass(frozen=True, eq=False)
class NewRegions:
    """The new entries of a live model: (parameter, block of its memory in this process) pairs that do not overlap."""

    blocks: tuple[tuple[nn.Parameter, Region], ...]

    @classmethod
    def of(cls, model: nn.Module, entries: Mapping[str, NewEntries]) -> NewRegions:
        """Blocks of every parameter that has new entries here; the model must be on its final device."""
        return cls(
            tuple(
                (parameter, _on(parameter.device, block))
                for name, parameter in model.named_parameters()
                if entries[name].any
                for whole in entries[name].regions()
                for block in _here(parameter, whole)
            )
        )

    @contextmanager
    def boosted(self, multiplier: float) -> Iterator[None]:
        """Around `optimizer.step()`: its change of new entries is multiplied.

        >>> weight = nn.Parameter(torch.zeros(3))
        >>> with NewRegions(((weight, (slice(1, 3),)),)).boosted(1.5), torch.no_grad():
        ...     _ = weight.add_(1.0)
        >>> weight.tolist()
        [1.0, 1.5, 1.5]
        """
        if multiplier == 1.0:
            yield
            return
        before = [local(parameter)[block].clone() for parameter, block in self.blocks]
        yield
        for (parameter, block), value in zip(self.blocks, before, strict=True):
            memory = local(parameter)
            memory[block] = value.lerp_(memory[block], multiplier)


def _here(parameter: nn.Parameter, whole: Region) -> Iterator[Region]:
    """A block of the whole tensor as a block of this process's memory; none where it lies elsewhere."""
    if not isinstance(parameter, DTensor):
        yield whole
        return
    flags = []
    for units, span in zip(held(parameter), whole, strict=True):
        places = span.flatten() if isinstance(span, Tensor) else torch.arange(span.start, span.stop)
        flags.append(torch.isin(units, places))
    if all(bool(one.any()) for one in flags):
        yield region(flags)


def _on(device: torch.device, block: Region) -> Region:
    return tuple(span.to(device) if isinstance(span, Tensor) else span for span in block)

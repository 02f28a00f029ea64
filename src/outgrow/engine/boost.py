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

from outgrow.growth.new_entries import NewEntries, Region


@dataclass(frozen=True, eq=False)
class NewRegions:
    """The new entries of a live model: (parameter, block) pairs that do not overlap."""

    blocks: tuple[tuple[nn.Parameter, Region], ...]

    @classmethod
    def of(cls, model: nn.Module, entries: Mapping[str, NewEntries]) -> NewRegions:
        """Blocks of every parameter that has new entries; the model must be on its final device."""
        return cls(
            tuple(
                (parameter, _on(parameter.device, region))
                for name, parameter in model.named_parameters()
                if entries[name].any
                for region in entries[name].regions()
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
        before = [parameter.detach()[region].clone() for parameter, region in self.blocks]
        yield
        with torch.no_grad():
            for (parameter, region), value in zip(self.blocks, before, strict=True):
                parameter[region] = value.lerp_(parameter[region], multiplier)


def _on(device: torch.device, region: Region) -> Region:
    return tuple(span.to(device) if isinstance(span, Tensor) else span for span in region)

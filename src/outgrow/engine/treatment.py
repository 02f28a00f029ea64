"""What a stage does to a model besides plain steps, put together: asked at a number of tokens, holds no state.

    with treatment.during(tokens):              # forward and backward
        ...
        with treatment.update(tokens):          # the optimizer's step
            optimizer.step()

All of it follows from the run's configuration, so a run that was killed continues with the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from torch import nn

from outgrow.engine.boost import NewRegions
from outgrow.engine.freezing import frozen, frozen_names
from outgrow.engine.masks import Masks, check_masks, make_masks
from outgrow.growth.new_entries import NewEntries, new_entries
from outgrow.growth.plan import GrowthPlan
from outgrow.run.after_growth import FreezeConfig, MasksConfig, NewEntriesConfig
from outgrow.run.config import StageConfig


@dataclass(frozen=True)
class Treatment:
    """A stage's treatment of one live model; `tokens` are those since the stage began."""

    boost: tuple[NewEntriesConfig, NewRegions] | None = None
    freeze: tuple[FreezeConfig, tuple[nn.Parameter, ...]] | None = None
    masks: tuple[MasksConfig, Masks] | None = None

    @contextmanager
    def during(self, tokens: float) -> Iterator[None]:
        """Around forward and backward passes and the update, and around a validation."""
        with ExitStack() as stack:
            if self.masks is not None:
                stack.enter_context(self.masks[1].at(self.masks[0].at(tokens)))
            if self.freeze is not None and self.freeze[0].at(tokens):
                stack.enter_context(frozen(self.freeze[1]))
            yield

    def update(self, tokens: float) -> AbstractContextManager[None]:
        """Around the optimizer's step alone."""
        if self.boost is None:
            return nullcontext()
        config, regions = self.boost
        return regions.boosted(config.at(tokens))


def make_treatment(stage: StageConfig, growth: GrowthPlan | None, model: nn.Module) -> Treatment:
    """What this stage asks for, on this model, which must be on its final device."""
    entries = _entries(stage, growth)
    boost, freeze, masks = None, None, None
    if stage.new_entries is not None:
        boost = stage.new_entries, NewRegions.of(model, entries)
    if stage.freeze is not None:
        parameters = dict(model.named_parameters())
        names = frozen_names(stage.freeze, tuple(parameters), entries)
        freeze = stage.freeze, tuple(parameters[name] for name in parameters if name in names)
    if stage.masks is not None and growth is not None:
        masks = stage.masks, make_masks(model, growth, entries)
    return Treatment(boost, freeze, masks)


def check_treatment(stage: StageConfig, growth: GrowthPlan | None, names: Sequence[str]) -> frozenset[str]:
    """Raise what `make_treatment` would, before any training; the names of what is frozen at first."""
    entries = _entries(stage, growth)
    if stage.masks is not None and growth is not None:
        check_masks(growth, entries)
    return frozenset() if stage.freeze is None else frozen_names(stage.freeze, names, entries)


def _entries(stage: StageConfig, growth: GrowthPlan | None) -> Mapping[str, NewEntries]:
    if not stage.asks_what_is_new:
        return {}
    assert growth is not None, "StageConfig asks for a growth"
    return new_entries(growth)

"""A stage's own numbers of the run's optimizer: those that can change without another kind of state.

    optimizer of a stage = the run's, with these in their place; moments, steps and the peak go on

The learning rate is `reentry.peak`'s. Adam's moments were averaged by the betas before, and fade as the new ones say.
"""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from outgrow.files.section import NotNegative, Positive, Section
from outgrow.run.optimizer_config import Beta, BetaDecay, OptimizerConfig, UpdateClip


class StageOptimizerConfig(Section):
    """What a stage changes of the run's `optimizer`; only what that optimizer has."""

    weight_decay: NotNegative | None = None
    gradient_clip: Positive | None = None
    """`null` ends clipping in this stage."""
    betas: tuple[Beta, Beta] | None = None
    eps: Positive | None = None
    momentum: Beta | None = None
    """Of SGD and Muon; SGD's may not begin or end at 0, where it keeps no state."""
    nesterov: bool | None = None
    beta2_decay: BetaDecay | None = None
    update_clip: UpdateClip | None = None

    @model_validator(mode="after")
    def _says_values(self) -> StageOptimizerConfig:
        for name in sorted(self.model_fields_set - {"gradient_clip"}):
            if getattr(self, name) is None:
                raise ValueError(f"{name} has no value: give one, or leave it out for the run's")
        return self

    @model_serializer(mode="wrap")
    def _as_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was said and nothing else, whichever fields are asked for: `gradient_clip: null` says something."""
        found = handler(self)
        return {name: found.get(name) for name in type(self).model_fields if name in self.model_fields_set}


def stage_optimizer(where: str, optimizer: OptimizerConfig, own: StageOptimizerConfig) -> OptimizerConfig:
    """The run's optimizer with a stage's numbers. Raises ValueError for one that it has not, or that would need another state.

    >>> from outgrow.run.optimizer_config import AdamWConfig
    >>> stage_optimizer("stages[1]", AdamWConfig(), StageOptimizerConfig(eps=1e-6)).eps
    1e-06
    >>> stage_optimizer("stages[1]", AdamWConfig(), StageOptimizerConfig(momentum=0.9))
    Traceback (most recent call last):
    ...
    ValueError: stages[1].optimizer.momentum: adamw has none; a stage may set betas, eps, gradient_clip, weight_decay
    """
    said = own.model_dump()
    known = sorted(set(type(optimizer).model_fields) & set(StageOptimizerConfig.model_fields))
    for name in said:
        if name not in known:
            raise ValueError(
                f"{where}.optimizer.{name}: {optimizer.name} has none; a stage may set {', '.join(known)}"
            )
    if optimizer.name == "sgd" and bool(said.get("momentum", optimizer.momentum)) != bool(optimizer.momentum):
        raise ValueError(
            f"{where}.optimizer.momentum: {said['momentum']:g} after {optimizer.momentum:g}: SGD keeps a state with a"
            " momentum and none without: give another number on the same side of 0"
        )
    if said.get("nesterov") and not said.get("momentum", getattr(optimizer, "momentum", 0)):
        raise ValueError(f"{where}.optimizer.nesterov: it needs a momentum")
    return optimizer.model_copy(update=said)

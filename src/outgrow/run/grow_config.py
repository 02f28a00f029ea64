"""How a run or a plan grows between two stages: `stages[i].grow`, its probe, and the `grow` of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AliasChoices, Field, model_validator

from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError
from outgrow.files.section import Count, Section, Seed
from outgrow.methods.options import USUAL, GrowthOptions
from outgrow.run.learn_config import Learning, LesaConfig


class ProbeCandidateConfig(Section):
    """Operators to try; one that is not named is the growth's own."""

    width: str | None = None
    depth: str | None = None


class ProbeConfig(Section):
    """Try several operators for a few steps each from the same state, and keep the one with the lowest loss (LAG)."""

    steps: Count
    candidates: tuple[ProbeCandidateConfig, ...]

    @model_validator(mode="after")
    def _compares(self) -> ProbeConfig:
        if len(self.candidates) < 2:
            raise ValueError("name at least two candidates: one alone needs no probe")
        return self


class GrowConfig(Section):
    """A growth between two stages: target sizes and how to reach them."""

    to: dict[str, Any] = Field(default_factory=dict)
    """Target sizes by config field, for example `{hidden_size: 192, num_hidden_layers: 6}`; a fitted operator has its own."""
    width: str | None = None
    """A width operator; by default `pad`, or `isometric` behind a post-norm."""
    depth: str = USUAL.depth
    experts: str | None = None
    """An operator on experts (`copy`, `split:pieces=4` ...), where they become more."""
    moments: Moments = USUAL.moments
    noise: Annotated[float, Field(ge=0)] = USUAL.noise
    """Reader-invisible noise that lets copies part, in units of the model's initializer range."""
    seed: Seed = USUAL.seed
    probe: ProbeConfig | None = None
    operator: str | None = None
    """Folder of an operator that `outgrow learn` fitted; its sizes, width, depth and seed are its own."""
    learn: Learning | None = None
    """Fit an operator here, on the run's own data."""
    as_: str | None = Field(
        default=None, validation_alias=AliasChoices("as", "as_"), serialization_alias="as"
    )
    """Describe the model as this type first (`as: mixtral`); `to` then names its sizes."""

    @property
    def options(self) -> GrowthOptions:
        """How it grows. A value that is usual is not said, but moments are: a fitted operator's usual is another."""
        own = GrowthOptions.unusual(
            width=self.width, depth=self.depth, experts=self.experts, noise=self.noise, seed=self.seed
        )
        return replace(own, moments=self.moments)

    @model_validator(mode="before")
    @classmethod
    def _learned_maps_reset_moments(cls, data: Any) -> Any:
        """No moments are carried through learned maps unless asked for."""
        if isinstance(data, dict) and (data.get("operator") or data.get("learn")):
            return {"moments": "reset", **data}
        return data

    @model_validator(mode="after")
    def _has_a_target(self) -> GrowConfig:
        if not self.to and self.operator is None:
            raise ValueError("name at least one size to grow to")
        return self

    @model_validator(mode="after")
    def _has_one_way(self) -> GrowConfig:
        if self.learn is not None and self.as_ is not None:
            raise ValueError("an operator is fitted within one model type: leave out as, or learn")
        if sum(one is not None for one in (self.probe, self.operator, self.learn)) > 1:
            raise ValueError("give one of probe, operator and learn")
        try:
            own = [name for name in self.options.said if name != "moments"]
        except GrowthError as error:
            raise ValueError(str(error)) from None
        read = ("noise", "seed") if isinstance(self.learn, LesaConfig) else ("seed",)
        unread = [name for name in own if name not in read]
        if self.learn is not None and unread:
            raise ValueError(
                f"a learned operator has no use for {', '.join(unread)}: see learn.width and learn.depth"
            )
        if self.operator is not None and own:
            raise ValueError(
                f"a fitted operator has its own width, depth, noise and seed: leave out {', '.join(own)}"
            )
        return self


class PlannedGrowConfig(GrowConfig):
    """How every stage of a plan grows; its sizes come from the candidates, so `to` and `operator` have no place here."""

    @model_validator(mode="after")
    def _has_a_target(self) -> PlannedGrowConfig:
        own = [name for name in ("to", "operator") if name in self.model_fields_set]
        if own:
            raise ValueError(f"the candidates of a plan say the sizes: leave out {' and '.join(own)}")
        return self

    def reaching(self, to: Mapping[str, Any]) -> dict[str, Any]:
        """The `grow` of a stage that reaches these sizes, as a run file says it."""
        return {"to": dict(to), **self.model_dump(mode="json", by_alias=True, exclude_unset=True)}

"""`stages[i].grow.learn` of a run file: an operator that is fitted where the stage begins, on the run's own data.

The keys are those of `learn_options`, with its defaults and checks; the seed is the growth's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from outgrow.errors import ConfigError
from outgrow.files.section import Count, Section
from outgrow.run.learn_options import LearnOptions, LesaOptions


class LearnConfig(Section):
    """What is fitted, from where, and for how long (docs/explanation/learned.md)."""

    method: Literal["ligo", "mango"] = "ligo"
    start: str = LearnOptions.start
    """`exact`, `published`, or `WIDTH,DEPTH`."""
    width: str = LearnOptions.width
    """Operators that an exact start begins at."""
    depth: str = LearnOptions.depth
    rank: Count = LearnOptions.rank
    """Of Mango's ring."""
    steps: Count = LearnOptions.steps
    learning_rate: Annotated[float, Field(gt=0)] | None = LearnOptions.learning_rate
    """Peak; default 3e-4 from an exact start, else 1e-3."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = LearnOptions.warmup_steps
    """Default a tenth of the steps."""
    dropout: bool = LearnOptions.dropout

    def options(self, seed: int = LearnOptions.seed) -> LearnOptions:
        """The settings of the fit. Raises ConfigError where they contradict each other."""
        return LearnOptions(**dict(self), seed=seed)

    @model_validator(mode="after")
    def _holds_together(self) -> LearnConfig:
        try:
            unused = self.options().unused
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if unused:
            raise ValueError(
                f"{self.method} from start {self.start} has no use for {', '.join(unused)}: leave out what it does not use"
            )
        return self


class LesaConfig(Section):
    """Layers predicted from their neighbours: no data, no steps of the task's loss."""

    method: Literal["lesa"]
    width: str = LesaOptions.width
    """How all layers are widened."""
    steps: Count = LesaOptions.steps
    """Of Adam, for each kind of matrix."""
    hidden: Count = LesaOptions.hidden
    rank: Count = LesaOptions.rank

    def options(self, noise: float, seed: int) -> LesaOptions:
        """The settings of the prediction; noise and seed are the growth's."""
        return LesaOptions(**self.model_dump(exclude={"method"}), noise=noise, seed=seed)


def _kind(data: Any) -> str:
    method = data.get("method") if isinstance(data, dict) else getattr(data, "method", None)
    return "lesa" if method == "lesa" else "fitted"


Learning = Annotated[
    Annotated[LearnConfig, Tag("fitted")] | Annotated[LesaConfig, Tag("lesa")], Discriminator(_kind)
]

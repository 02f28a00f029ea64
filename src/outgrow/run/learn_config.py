"""`stages[i].grow.learn` of a run file: an operator that is fitted where the stage begins, on the run's own data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from outgrow.files.section import Count, Section


def unread(method: str, start: str) -> tuple[str, ...]:
    """Options that a fit by this method from this start never reads.

    >>> unread("ligo", "exact"), unread("mango", "published")
    (('rank',), ('width', 'depth'))
    """
    return (*(() if start == "exact" else ("width", "depth")), *(() if method == "mango" else ("rank",)))


class LearnConfig(Section):
    """What is fitted, from where, and for how long (docs/explanation/learned.md)."""

    method: Literal["ligo", "mango"] = "ligo"
    start: str = "exact"
    """`exact`, `published`, or `WIDTH,DEPTH`."""
    width: str = "isometric"
    """Operators that an exact start begins at."""
    depth: str = "identity"
    rank: Count = 1
    """Of Mango's ring."""
    steps: Count = 100
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak; default 3e-4 from an exact start, else 1e-3."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Default a tenth of the steps."""
    dropout: bool = False

    @model_validator(mode="after")
    def _warms_up(self) -> LearnConfig:
        if self.warmup_steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be fewer than steps {self.steps}")
        return self

    @model_validator(mode="after")
    def _reads_all(self) -> LearnConfig:
        usual = type(self).model_fields
        unused = [
            name for name in unread(self.method, self.start) if getattr(self, name) != usual[name].default
        ]
        if unused:
            raise ValueError(
                f"{self.method} from start {self.start} has no use for {', '.join(unused)}: leave out what it does not use"
            )
        return self


class LesaConfig(Section):
    """Layers predicted from their neighbours: no data, no steps of the task's loss."""

    method: Literal["lesa"]
    width: str = "isometric"
    """How all layers are widened."""
    steps: Count = 200
    """Of Adam, for each kind of matrix."""
    hidden: Count = 64
    rank: Count = 128


def _kind(data: Any) -> str:
    method = data.get("method") if isinstance(data, dict) else getattr(data, "method", None)
    return "lesa" if method == "lesa" else "fitted"


Learning = Annotated[
    Annotated[LearnConfig, Tag("fitted")] | Annotated[LesaConfig, Tag("lesa")], Discriminator(_kind)
]
